"""Small integers in large ones, groups of them that share a scale, tensors that are computed when they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from score.errors import QuantisedWeights
from score.formats import dtypes
from score.formats.base import TensorRef, computed

Tensors = Mapping[str, TensorRef]


def made(shape: tuple[int, ...], load: Callable[[], torch.Tensor], dtype: str) -> TensorRef:
    """A tensor that `load` computes; its bytes are those that it takes then."""
    return computed(dtype, shape, lambda: load().to(dtypes.of(dtype)).contiguous())


def groups(tensors: Tensors, *parts: str) -> dict[str, dict[str, TensorRef]]:
    """The layers that have the first of the parts, each with those of the parts that it has."""
    first = f".{parts[0]}"
    return {
        layer: {part: tensors[name] for part in parts if (name := f"{layer}.{part}" if layer else part) in tensors}
        for layer in (key.removesuffix(first) for key in tensors if key.endswith(first))
    }


def without(tensors: Tensors, layers: Mapping[str, Any], *parts: str) -> dict[str, TensorRef]:
    """All tensors but those parts of these layers."""
    gone = {f"{layer}.{part}" for layer in layers for part in parts}
    return {name: ref for name, ref in tensors.items() if name not in gone}


def require(parts: Mapping[str, TensorRef], layer: str, *names: str) -> list[TensorRef]:
    """Those parts of a layer. Raises `QuantisedWeights` where one is missing."""
    if missing := [name for name in names if name not in parts]:
        raise QuantisedWeights(f"{layer} is quantised, and its {', '.join(missing)} is not in the checkpoint")
    return [parts[name] for name in names]


def number(config: Mapping[str, Any], name: str, *allowed: int) -> int:
    """A whole number that a configuration says, one of those allowed. Raises `QuantisedWeights`."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or (allowed and value not in allowed):
        raise QuantisedWeights(f"the quantisation's configuration says {value!r:.60} for {name}")
    return value


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The integers of `bits` bits in int32[..., W], lowest first: int32[..., W * 32 / bits]. One may lie across two
    words."""
    count = words.shape[-1] * 32 // bits
    whole = words.to(torch.int64) & 0xFFFFFFFF
    start = torch.arange(count, device=words.device) * bits
    at, shift = start // 32, start % 32
    low = whole[..., at] >> shift
    high = whole[..., (at + 1).clamp(max=words.shape[-1] - 1)] << (32 - shift)
    return ((low | torch.where(shift + bits > 32, high, 0)) & ((1 << bits) - 1)).to(torch.int32)


def spread(scales: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Scales [A, B] of equal blocks, or of one for all, as [O, I], a number for each of the weights of `shape`. Raises
    `QuantisedWeights`."""
    if scales.ndim == 0 or scales.numel() == 1:
        return scales.reshape(1, 1)
    scales = scales[:, None] if scales.ndim == 1 else scales
    for axis in (0, 1):
        have, want = scales.shape[axis], shape[axis]
        if have in (1, want):
            continue
        size = -(-want // have)
        if have * size < want or (have - 1) * size >= want:
            raise QuantisedWeights(f"{have} scales for {want} weights fit no equal blocks")
        scales = scales.repeat_interleave(size, axis).narrow(axis, 0, want)
    return scales
