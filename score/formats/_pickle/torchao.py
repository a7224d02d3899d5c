"""torchao's tensors of quantised weights, as the numbers that they stand for.

In a pickle, each is an object with its integers or floats of 8 bits, and a scale (and a zero point) for each block.
Source: torchao 0.18, `dequantize` of the classes that are named here. Others of torchao are refused by their class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from score.formats import dtypes
from score.formats.base import OpaqueObject, TensorRef, computed

_INTEGERS = frozenset(("Int8Tensor", "IntxUnpackedToInt8Tensor"))
_FLOATS = frozenset(("Float8Tensor",))
_CHANGES_INPUTS = "act_pre_scale"  # what inputs are multiplied with, which a plain layer would not do


def is_one(value: Any) -> bool:
    return (
        isinstance(value, OpaqueObject)
        and value.path.startswith("torchao.")
        and value.path.rpartition(".")[2] in _INTEGERS | _FLOATS
    )


def numbers(value: OpaqueObject) -> TensorRef | None:
    """The weights as a tensor; None where a part is missing, or is not what it should be."""
    held: Mapping[Any, Any] = value.attributes()
    dtype, shape = (*value.args, None, None)[:2]
    data, scale, zero, block = (held.get(name) for name in ("qdata", "scale", "zero_point", "block_size"))
    if not isinstance(dtype, torch.dtype) or not isinstance(shape, tuple) or held.get(_CHANGES_INPUTS) is not None:
        return None
    if not isinstance(data, TensorRef) or not isinstance(scale, TensorRef) or data.shape != shape:
        return None
    whole = value.path.rpartition(".")[2] in _INTEGERS
    if whole != (data.dtype_name == "int8") or not (zero is None or isinstance(zero, TensorRef)):
        return None
    counts = _counts(shape, block)
    if counts is None or any(part is not None and part.numel not in (1, _product(counts)) for part in (scale, zero)):
        return None

    def load() -> torch.Tensor:
        found = data.load().to(dtype if whole else torch.float32)
        if zero is not None:
            found = found - _spread(zero.load(), counts, shape).to(found.dtype)
        return (found * _spread(scale.load(), counts, shape)).to(dtype)

    return computed(dtypes.name_of(dtype), shape, load)


def _counts(shape: tuple[int, ...], block: Any) -> tuple[int, ...] | None:
    """How many blocks there are along each dimension."""
    if not isinstance(block, (list, tuple)) or len(block) != len(shape):
        return None
    sizes = [whole if each == -1 else each for each, whole in zip(block, shape, strict=True)]
    if any(not isinstance(each, int) or each < 1 or whole % each for each, whole in zip(sizes, shape, strict=True)):
        return None
    return tuple(whole // each for each, whole in zip(sizes, shape, strict=True))


def _product(counts: tuple[int, ...]) -> int:
    product = 1
    for each in counts:
        product *= each
    return product


def _spread(values: torch.Tensor, counts: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """One value a block as one an element."""
    if values.numel() == 1:
        return values.reshape(())
    values = values.reshape(counts)
    for dimension, (count, size) in enumerate(zip(counts, shape, strict=True)):
        values = values.repeat_interleave(size // count, dimension) if count != size else values
    return values
