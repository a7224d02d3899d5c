"""torch.ao.quantization: tensors that know their scales, and linear layers that keep weight and bias in one object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from score.formats.base import TensorRef
from score.weights.quantisation.packing import Tensors, made

_BESIDE = ("scale", "zero_point")


def dequantised(tensors: Tensors, _config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The state with each quantised tensor as the numbers that it stands for; a layer's own scale, that of what it
    gives, is for computing with integers."""
    layers = {name.removesuffix(".weight") for name, ref in tensors.items() if ref.layout == "quantized"}
    gone = {f"{layer}.{part}" for layer in layers for part in _BESIDE}
    return {
        name: _numbers(ref, dtype) if ref.layout == "quantized" else ref
        for name, ref in tensors.items()
        if name not in gone
    }


def _numbers(ref: TensorRef, dtype: str) -> TensorRef:
    return made(ref.shape, lambda: ref.load().dequantize(), dtype)
