"""GPTQ (Frantar et al. 2022), as AutoGPTQ and GPTQModel write it: integers of 2, 3, 4 or 8 bits packed along the
inputs, a scale and a zero point for each group of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from score.errors import QuantisedWeights
from score.weights.quantisation.packing import Tensors, groups, made, number, require, unpacked, without

METHODS = ("gptq",)
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def dequantised(tensors: Tensors, config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The state with `weight` in the place of each layer's parts. Raises `QuantisedWeights`."""
    bits, layers = number(config, "bits", 2, 3, 4, 8), groups(tensors, *_PARTS)
    size = config.get("group_size", -1)
    newer = config.get("checkpoint_format") == "gptq_v2"  # the older format stores zero points less one
    found = without(tensors, layers, *_PARTS)
    for layer, parts in layers.items():
        weight, zeros, scales = require(parts, layer, "qweight", "qzeros", "scales")
        order = parts.get("g_idx")
        rows, outputs = weight.shape[0] * 32 // bits, weight.shape[1]
        if scales.shape[1:] != (outputs,) or zeros.shape != (scales.shape[0], outputs * bits // 32):
            raise QuantisedWeights(f"{layer}: shapes of GPTQ's parts that do not belong together")
        if order is None and (not isinstance(size, int) or isinstance(size, bool) or size == 0):
            raise QuantisedWeights(f"{layer}: nothing says which inputs share a scale")

        def load(parts: Any = (weight, zeros, scales, order), rows: int = rows) -> torch.Tensor:
            weight, zeros, scales, order = parts
            values = unpacked(weight.load().t().contiguous(), bits)  # [out, in]
            points = unpacked(zeros.load(), bits) + (0 if newer else 1)  # [groups, out]
            group = order.load().long() if order is not None else _in_order(rows, size, scales.shape[0])
            if int(group.min()) < 0 or int(group.max()) >= scales.shape[0]:
                raise QuantisedWeights("GPTQ's g_idx names a group that is not there")
            real: torch.Tensor = scales.load().float()[group].t() * (values - points[group].t())
            return real

        found[f"{layer}.weight"] = made((outputs, rows), load, dtype)
    return found


def _in_order(rows: int, size: Any, count: int) -> torch.Tensor:
    return torch.arange(rows) // (size if size > 0 else -(-rows // count))
