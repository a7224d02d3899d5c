"""Eight-bit floats with scales, for a tensor, a row or a block of it: DeepSeek's and transformers' `fp8`, FBGEMM's,
ModelOpt's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from score.errors import QuantisedWeights
from score.formats import dtypes
from score.weights.quantisation.packing import Tensors, made, spread

METHODS = ("fp8", "fbgemm_fp8", "modelopt")
_SCALES = ("weight_scale_inv", "weight_scale")
_BESIDE = ("input_scale", "activation_scale", "output_scale", "k_scale", "v_scale", "q_scale")


def dequantised(tensors: Tensors, config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The state with each weight multiplied by its scale. Raises `QuantisedWeights` for one without."""
    eight = {name.removesuffix("weight") for name, ref in tensors.items() if ref.dtype_name in dtypes.FLOAT8}
    gone = {f"{layer}{scale}" for layer in eight for scale in _SCALES}
    found = {name: ref for name, ref in tensors.items() if name not in gone and not name.endswith(_BESIDE)}
    block = config.get("weight_block_size")
    for name, ref in tensors.items():
        if ref.dtype_name not in dtypes.FLOAT8:
            continue
        layer = name.removesuffix("weight")
        scale = next((tensors[f"{layer}{each}"] for each in _SCALES if f"{layer}{each}" in tensors), None)
        if scale is None or not name.endswith("weight") or len(ref.shape) != 2:
            raise QuantisedWeights(f"{name} is of {ref.dtype_name}, and its scale is not in the checkpoint")

        def load(parts: Any = (ref, scale)) -> torch.Tensor:
            weight, scale = parts
            factors = scale.load().float()
            if isinstance(block, (list, tuple)) and factors.ndim == 2 and factors.numel() > 1:
                factors = _blocks(factors, block, weight.shape)
            real: torch.Tensor = weight.load().float() * spread(factors, weight.shape)
            return real

        found[name] = made(ref.shape, load, dtype)
    return found


def _blocks(scales: torch.Tensor, block: Any, shape: tuple[int, ...]) -> torch.Tensor:
    for axis in (0, 1):
        size = block[axis] if len(block) == 2 else None
        if not isinstance(size, int) or size < 1 or scales.shape[axis] != -(-shape[axis] // size):
            raise QuantisedWeights(f"scales of shape {list(scales.shape)} for weights {list(shape)} in blocks {block}")
        scales = scales.repeat_interleave(min(size, shape[axis]), axis).narrow(axis, 0, shape[axis])
    return scales
