"""torchao's tensors of quantised weights, as the numbers that they stand for.

In a pickle, each is an object with its integers or floats of few bits, and a scale (and a zero point) for each block.
Sources: torchao 0.18 and, for AffineQuantizedTensor, which it no longer has, 0.10; of Int4Tensor, which is packed by
mslk, its `pack_int4` and `int4_row_quantize_zp`. Others of torchao are refused by their class: those that are tiled for
tensor cores (Int4TilePackedTo4dTensor, TensorCoreTiledLayout) have another order of their integers on CUDA than on ROCm
or a CPU, in the same shape, and the file does not say which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from score.formats import dtypes
from score.formats.base import OpaqueObject, TensorRef, computed

_WRAPPER = "LinearActivationQuantizedTensor"  # of weights whose layer quantises its inputs, which is not done here
_CHANGES_INPUTS = "act_pre_scale"  # what inputs are multiplied with, which a plain layer would not do
_Shape = tuple[int, ...]
_INTEGERS = ("int8", "uint8")
_INTEGER, _FLOAT = 1, 2  # of torchao's ZeroPointDomain: before it is scaled, or added once it is
_SHARDS: dict[Any, tuple[tuple[int, int], ...]] = {  # bits of an integer: bits of each of its shards, and where they go
    1: ((1, 0),), 2: ((2, 0),), 3: ((2, 0), (1, 2)), 4: ((4, 0),), 5: ((4, 0), (1, 4)), 6: ((4, 0), (2, 4)),
    7: ((4, 0), (2, 4), (1, 6)),
}  # fmt: skip


class _Blocks(NamedTuple):
    """A number for each element of the weight, a scale and a zero point for each block of them, in the blocks' order.
    `middle` is subtracted before it is scaled, where the zero point is added after it."""

    data: Callable[[], torch.Tensor]
    scale: Callable[[], torch.Tensor]
    zero: Callable[[], torch.Tensor] | None
    counts: tuple[int, ...]
    middle: float | None = None


def is_one(value: Any) -> bool:
    return (
        isinstance(value, OpaqueObject)
        and value.path.startswith("torchao.")
        and value.path.rpartition(".")[2] in (*_KINDS, _WRAPPER)
    )


def numbers(value: OpaqueObject) -> TensorRef | None:
    """The weights as a tensor; None where a part is missing, or is not what it should be."""
    if _kind(value) == _WRAPPER:
        value = value.attribute("original_weight_tensor")
        if not is_one(value):
            return None
    dtype, shape = (*value.args, None, None)[:2]
    if not isinstance(dtype, torch.dtype) or not isinstance(shape, tuple):
        return None
    return numbers_of(_kind(value), value.attributes(), shape, dtypes.name_of(dtype))


def numbers_of(kind: str, held: Mapping[Any, Any], shape: tuple[int, ...], dtype: str) -> TensorRef | None:
    """The same, of a class of torchao's by its name, with what it holds."""
    read = _KINDS.get(kind)
    blocks = read(held, shape) if read is not None and held.get(_CHANGES_INPUTS) is None else None
    if blocks is None or not dtypes.is_floating_point(dtype):
        return None
    return replace(computed(dtype, shape, lambda: _load(blocks, shape, dtypes.of(dtype))), storage=_Numbers())


class _Numbers:
    """In place of the storage of a tensor that was computed here."""


def was_one(ref: TensorRef) -> bool:
    """Whether a tensor is the numbers that one of torchao's stands for."""
    return isinstance(ref.storage, _Numbers)


def _load(blocks: _Blocks, shape: _Shape, dtype: torch.dtype) -> torch.Tensor:
    data, scale = blocks.data(), _spread(blocks.scale(), blocks.counts, shape)
    zero = None if blocks.zero is None else _spread(blocks.zero(), blocks.counts, shape)
    if blocks.middle is not None:
        found = (data.to(torch.float32) - blocks.middle) * scale
        return (found if zero is None else found + zero).to(dtype)
    if data.is_floating_point():
        return (data.to(torch.float32) * scale).to(dtype)
    if zero is not None:
        data = data.to(torch.int32) - zero.to(torch.int32)
    return (data.to(dtype) * scale).to(dtype)


def _integers(held: Mapping[Any, Any], shape: _Shape) -> _Blocks | None:
    """Int8Tensor and IntxUnpackedToInt8Tensor."""
    data, scale, zero = (held.get(name) for name in ("qdata", "scale", "zero_point"))
    return _in_blocks(data, ("int8",), scale, zero, _counts(shape, held.get("block_size")), shape)


def _floats(held: Mapping[Any, Any], shape: _Shape) -> _Blocks | None:
    """Float8Tensor, which has no zero points."""
    if held.get("zero_point") is not None:
        return None
    return _in_blocks(
        held.get("qdata"), dtypes.FLOAT8, held.get("scale"), None, _counts(shape, held.get("block_size")), shape
    )


def _four_bits(held: Mapping[Any, Any], shape: _Shape) -> _Blocks | None:
    """Int4Tensor: two signed integers a byte, the first in its lower half; scales and zero points with the blocks of a
    row below each other, the zero points added to what is scaled."""
    data, scale, zero = (held.get(name) for name in ("qdata", "scale", "zero_point"))
    counts = _counts(shape, held.get("block_size"))
    if counts is None or len(shape) < 2 or shape[-1] % 2:
        return None
    turned = (*counts[:-2], counts[-1], counts[-2])
    if not isinstance(data, TensorRef) or data.dtype_name not in _INTEGERS:
        return None
    if data.shape != (*shape[:-1], shape[-1] // 2) or any(
        not isinstance(part, TensorRef) or part.shape != turned for part in (scale, zero)
    ):
        return None
    assert isinstance(scale, TensorRef) and isinstance(zero, TensorRef)
    load, scales, zeros = data.load, scale.load, zero.load

    def integers() -> torch.Tensor:
        packed = load().view(torch.uint8)
        return (torch.stack((packed & 15, packed >> 4), -1).flatten(-2).to(torch.int8) ^ 8) - 8

    return _Blocks(
        integers,
        lambda: scales().to(torch.float32).transpose(-1, -2),
        lambda: zeros().to(torch.float32).transpose(-1, -2),
        counts,
        0.0,
    )


def _affine(held: Mapping[Any, Any], shape: _Shape) -> _Blocks | None:
    """AffineQuantizedTensor, by how it lies: plain, as floats of eight bits, or as shards of integers."""
    inner = held.get("tensor_impl")
    if not isinstance(inner, OpaqueObject) or not inner.path.startswith("torchao."):
        return None
    parts = inner.attributes()
    counts = _counts(shape, held.get("block_size"))
    scale, zero = parts.get("scale"), parts.get("zero_point")
    if _kind(inner) == "Float8AQTTensorImpl" and not parts.get("transposed") and zero is None:
        return _in_blocks(parts.get("float8_data"), dtypes.FLOAT8, scale, zero, counts, shape)
    if _kind(inner) not in ("PlainAQTTensorImpl", "UintxAQTTensorImpl"):
        return None
    data = parts.get("int_data")
    data = _of_shards(data, shape) if isinstance(data, OpaqueObject) else data
    blocks = _in_blocks(data, _INTEGERS, scale, zero, counts, shape)
    domain, least, most = (held.get(name) for name in ("zero_point_domain", "quant_min", "quant_max"))
    domain = domain.args[:1] if isinstance(domain, OpaqueObject) else ()  # an enumeration's member
    if blocks is None or domain == (_INTEGER,) or (zero is None and domain != (_FLOAT,)):
        return blocks
    if domain != (_FLOAT,) or not isinstance(least, int) or not isinstance(most, int):
        return None
    return blocks._replace(middle=(least + most + 1) / 2)


def _in_blocks(
    data: Any, kinds: tuple[str, ...], scale: Any, zero: Any, counts: _Shape | None, shape: _Shape
) -> _Blocks | None:
    """What has data of one of those dtypes, and a scale a block or for all; None where a part does not fit."""
    if counts is None or not isinstance(data, TensorRef) or data.shape != shape:
        return None
    if data.dtype_name not in kinds:
        return None
    if not isinstance(scale, TensorRef) or not (zero is None or isinstance(zero, TensorRef)):
        return None
    if any(part is not None and part.numel not in (1, math.prod(counts)) for part in (scale, zero)):
        return None
    return _Blocks(data.load, scale.load, None if zero is None else zero.load, counts)


def _of_shards(value: OpaqueObject, shape: _Shape) -> TensorRef | None:
    """UintxTensor: an integer's bits in shards of 4, 2 and 1 bits, each byte of which has those of as many integers, a
    part of the dimension apart."""
    held = value.attributes()
    bits, along = held.get("bit_width"), held.get("pack_dim")
    shards = _SHARDS.get(bits) if isinstance(bits, int) else None
    if (
        _kind(value) != "UintxTensor"
        or not isinstance(along, int)
        or not -len(shape) <= along < len(shape)
        or not shards
    ):
        return None
    parts = [held.get(f"int{width}_shard") for width, _ in shards]
    for part, (width, _) in zip(parts, shards, strict=True):
        packed = list(shape)
        packed[along] = shape[along] * width // 8
        if shape[along] * width % 8 or not isinstance(part, TensorRef):
            return None
        if part.dtype_name != "uint8" or part.shape != tuple(packed):
            return None
    loads = [part.load for part in parts if isinstance(part, TensorRef)]

    def load() -> torch.Tensor:
        found = torch.zeros(shape, dtype=torch.uint8)
        for packed, (width, to) in zip((each() for each in loads), shards, strict=True):
            pieces = [packed >> shift & (1 << width) - 1 for shift in range(0, 8, width)]
            found |= torch.cat(pieces, along) << to
        return found

    return computed("uint8", shape, load)


_KINDS: dict[str, Callable[[Mapping[Any, Any], _Shape], _Blocks | None]] = {
    "Int8Tensor": _integers,
    "IntxUnpackedToInt8Tensor": _integers,
    "Float8Tensor": _floats,
    "Int4Tensor": _four_bits,
    "AffineQuantizedTensor": _affine,
}


def _kind(value: OpaqueObject) -> str:
    return value.path.rpartition(".")[2]


def _counts(shape: _Shape, block: Any) -> _Shape | None:
    """How many blocks there are along each dimension."""
    if not isinstance(block, (list, tuple)) or len(block) != len(shape):
        return None
    sizes = [whole if each == -1 else each for each, whole in zip(block, shape, strict=True)]
    if any(not isinstance(each, int) or each < 1 or whole % each for each, whole in zip(sizes, shape, strict=True)):
        return None
    return tuple(whole // each for each, whole in zip(sizes, shape, strict=True))


def _spread(values: torch.Tensor, counts: _Shape, shape: _Shape) -> torch.Tensor:
    """One value a block as one an element."""
    if values.numel() == 1:
        return values.reshape(())
    values = values.reshape(counts)
    for dimension, (count, size) in enumerate(zip(counts, shape, strict=True)):
        values = values.repeat_interleave(size // count, dimension) if count != size else values
    return values
