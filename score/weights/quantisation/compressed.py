"""compressed-tensors (LLM Compressor, vLLM): integers packed into words or one a byte, eight-bit floats, four-bit
floats (NVFP4, MXFP4), each with scales. Source: the format's documentation, and the names in the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from score.errors import QuantisedWeights
from score.formats.base import TensorRef
from score.weights.quantisation import float8
from score.weights.quantisation.packing import Tensors, groups, made, require, spread, unpacked, without

METHODS = ("compressed-tensors",)
_PACKED = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale")
_BESIDE = ("input_scale", "input_global_scale", "input_zero_point", "output_scale", "k_scale", "v_scale")
_FOUR = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # what the lower three bits of an FP4 E2M1 mean


def dequantised(tensors: Tensors, config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The state with `weight` in the place of each layer's parts. Raises `QuantisedWeights`."""
    if config.get("quantization_status") not in (None, "compressed", "frozen", "initialized"):
        raise QuantisedWeights(f"compressed-tensors in the state {config['quantization_status']!r:.40}")
    kept = {name: ref for name, ref in tensors.items() if not name.endswith(tuple(f".{part}" for part in _BESIDE))}
    layers = groups(kept, *_PACKED)
    found = without(kept, layers, *_PACKED)
    for layer, parts in layers.items():
        packed, scale = require(parts, layer, "weight_packed", "weight_scale")
        found[f"{layer}.weight"] = (
            _four_bits(layer, packed, scale, parts.get("weight_global_scale"), dtype)
            if packed.dtype_name == "uint8"
            else _integers(layer, packed, scale, parts, _bits(config, layer), dtype)
        )
    for name, ref in list(found.items()):
        if ref.dtype_name == "int8" and name.endswith(".weight"):
            found[name] = _bytes(name, ref, kept, dtype)
    gone = {name for name in found if name.endswith((".weight_zero_point", ".weight_scale")) and _is_int8(name, kept)}
    return float8.dequantised({name: ref for name, ref in found.items() if name not in gone}, config, dtype)


def _is_int8(name: str, tensors: Tensors) -> bool:
    ref = tensors.get(f"{name.rpartition('.')[0]}.weight")
    return ref is not None and ref.dtype_name == "int8"


def _bits(config: Mapping[str, Any], layer: str) -> int:
    """How wide integers are: what all groups of layers say alike."""
    said = config.get("config_groups")
    listed = list(said.values()) if isinstance(said, dict) else []
    schemes = [group.get("weights") for group in listed if isinstance(group, dict)]
    widths = {scheme.get("num_bits") for scheme in schemes if isinstance(scheme, dict)}
    if len(widths) != 1 or not isinstance(width := widths.pop(), int) or width not in (2, 4, 8):
        raise QuantisedWeights(f"{layer}: config_groups say nothing of the width of its integers, or several things")
    return width


def _integers(
    layer: str, packed: TensorRef, scale: TensorRef, parts: Mapping[str, TensorRef], bits: int, dtype: str
) -> TensorRef:
    """Integers packed along the inputs, from the lowest bits, less half their range; zero points along the outputs."""
    (shaped,) = require(parts, layer, "weight_shape")
    shape = tuple(int(each) for each in shaped.load().tolist()) if shaped.numel == 2 else ()
    if len(shape) != 2 or packed.shape != (shape[0], -(-shape[1] * bits // 32)):
        raise QuantisedWeights(f"{layer}: packed weights {list(packed.shape)} that are not of the shape {list(shape)}")
    zeros, order, half = parts.get("weight_zero_point"), parts.get("weight_g_idx"), 1 << (bits - 1)

    def load() -> torch.Tensor:
        values = unpacked(packed.load(), bits)[:, : shape[1]] - half
        factors = scale.load().float()
        points = None
        if zeros is not None:
            points = unpacked(zeros.load().t().contiguous(), bits).t()[: shape[0]] - half
        if order is not None and int((group := order.load().long()).min()) >= 0:
            factors, points = factors[:, group], None if points is None else points[:, group]
        points = torch.zeros(1, 1) if points is None else spread(points.float(), shape)
        return (values - points) * spread(factors, shape)

    return made(shape, load, dtype)


def _bytes(name: str, ref: TensorRef, tensors: Tensors, dtype: str) -> TensorRef:
    layer = name.removesuffix(".weight")
    scale, zeros = tensors.get(f"{layer}.weight_scale"), tensors.get(f"{layer}.weight_zero_point")
    if scale is None or len(ref.shape) != 2:
        raise QuantisedWeights(f"{name} is of int8, and its scale is not in the checkpoint")

    def load() -> torch.Tensor:
        points = torch.zeros(1, 1) if zeros is None else spread(zeros.load().float(), ref.shape)
        return (ref.load().float() - points) * spread(scale.load().float(), ref.shape)

    return made(ref.shape, load, dtype)


def _four_bits(layer: str, packed: TensorRef, scale: TensorRef, whole: TensorRef | None, dtype: str) -> TensorRef:
    """Two E2M1 floats a byte, the first in the lower half; a scale for 16 of them (NVFP4: an eight-bit float, over one
    for all) or for 32 (MXFP4: a power of two)."""
    shape = (packed.shape[0], packed.shape[1] * 2) if len(packed.shape) == 2 else (0, 0)
    if not scale.shape or shape[1] == 0 or scale.shape[0] != shape[0]:
        raise QuantisedWeights(f"{layer}: four-bit floats whose scales are of another shape")

    def load() -> torch.Tensor:
        values = packed.load()
        both = torch.stack((values & 15, values >> 4), 2).view(shape).long()
        numbers = torch.where(both >= 8, -1.0, 1.0) * torch.tensor(_FOUR)[both & 7]
        factors = scale.load()
        factors = torch.exp2(factors.float() - 127) if factors.dtype == torch.uint8 else factors.float()
        factors = factors / whole.load().float() if whole is not None else factors
        return numbers * spread(factors, shape)

    return made(shape, load, dtype)
