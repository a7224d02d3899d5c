"""AWQ (Lin et al. 2023), in the layout of AutoAWQ's GEMM: integers of 4 bits packed along the outputs, eight to a word
in an order of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from score.errors import QuantisedWeights
from score.weights.quantisation.packing import Tensors, groups, made, number, require, unpacked, without

METHODS = ("awq",)
_PARTS = ("qweight", "qzeros", "scales")
_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # where in a word the outputs from first to last are


def dequantised(tensors: Tensors, config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The state with `weight` in the place of each layer's parts. Raises `QuantisedWeights`."""
    number(config, "bits" if "bits" in config else "w_bit", 4)
    if str(config.get("version", "gemm")).lower() != "gemm":
        raise QuantisedWeights(f"AWQ in the layout {config['version']!r:.40} is not read here, but GEMM")
    layers = groups(tensors, *_PARTS)
    found = without(tensors, layers, *_PARTS)
    for layer, parts in layers.items():
        weight, zeros, scales = require(parts, layer, "qweight", "qzeros", "scales")
        inputs, outputs = weight.shape[0], weight.shape[1] * 8
        each = inputs // scales.shape[0] if scales.shape[0] else 0
        if scales.shape[1:] != (outputs,) or zeros.shape[0] != scales.shape[0] or each * scales.shape[0] != inputs:
            raise QuantisedWeights(f"{layer}: shapes of AWQ's parts that do not belong together")

        def load(parts: Any = (weight, zeros, scales), each: int = each) -> torch.Tensor:
            weight, zeros, scales = parts
            points, factors = (
                part.repeat_interleave(each, 0) for part in (_ordered(zeros.load()), scales.load().float())
            )
            return ((_ordered(weight.load()) - points) * factors).t()

        found[f"{layer}.weight"] = made((outputs, inputs), load, dtype)
    return found


def _ordered(words: torch.Tensor) -> torch.Tensor:
    values = unpacked(words, 4)
    return values.view(len(words), -1, 8)[:, :, _ORDER].reshape(len(words), -1)
