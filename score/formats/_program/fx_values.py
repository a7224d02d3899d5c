"""What a traced module may do with its values: of tensors anything that only computes, of numbers little at a time."""

from __future__ import annotations

import operator as python
from collections.abc import Callable, Mapping
from typing import Any

import torch

from score.formats._program import operators

MOST_BITS = 64  # of a power, and of a shift
ATTRIBUTES = frozenset(("shape", "dtype", "device", "ndim", "T", "mT", "H", "mH", "real", "imag", "layout", "is_cuda"))
# Methods of tensors that are no operators by that name.
_METHODS = frozenset(
    """
    bfloat16 bool double expand_as float half int item long ndimension numel size dim stride tolist type_as view_as
    element_size is_floating_point is_complex contiguous
    """.split()  # noqa: SIM905
)
_NUMBERS = (bool, int, float, complex)


class WrongValue(ValueError):
    """A value of another kind than the text needs there."""


def is_method(name: str) -> bool:
    """Whether a tensor's method is known to do no more than compute."""
    return name in _METHODS or (not name.startswith("_") and f"aten::{name}" in operators.scripted_names())


def method(value: Any, name: str, given: list[Any], named: dict[str, Any]) -> Any:
    if isinstance(value, torch.Size) and name == "numel":
        return value.numel()
    if not isinstance(value, torch.Tensor):
        raise WrongValue(f"{name} of a {type(value).__name__}, not of a tensor")
    return getattr(value, operators.ZEROED.get(name, name))(*given, **named)


def attribute(value: Any, name: str) -> Any:
    if name not in ATTRIBUTES or not isinstance(value, torch.Tensor):
        raise WrongValue(f"{name} of a {type(value).__name__}")
    return getattr(value, name)


def taken(value: Any, at: Any) -> Any:
    """`value[at]`."""
    if not isinstance(value, (torch.Tensor, tuple, list, dict)):
        raise WrongValue(f"a part of a {type(value).__name__}")
    return value[at]


def calculated(compute: Callable[..., Any], given: list[Any]) -> Any:
    """Arithmetic of tensors, of numbers, and of sizes that are put together."""
    if not any(isinstance(each, torch.Tensor) for each in given):
        joined = compute is python.add and all(isinstance(each, tuple) for each in given)
        same = compute in (python.eq, python.ne)
        if not joined and not same and not all(isinstance(each, _NUMBERS) for each in given):
            raise WrongValue(f"{compute.__name__} of {', '.join(type(each).__name__ for each in given)}")
        if compute in (python.pow, python.lshift) and any(abs(each) > 2**MOST_BITS for each in given):
            raise WrongValue(f"{compute.__name__} of {given}")
        if compute in (python.pow, python.lshift) and abs(given[1]) > MOST_BITS:
            raise WrongValue(f"{compute.__name__} of {given}")
    return compute(*given)


def _attribute_of(value: Any, name: Any) -> Any:
    return attribute(value, str(name))


def require(holds: Any, message: Any = "") -> None:
    """`torch._assert`: raises `WrongValue` for what the module was not made for."""
    if not holds:
        raise WrongValue(str(message)[:500])


def _not_dropped(x: Any, _share: Any, _mode: Any = "", training: Any = True) -> Any:
    """torchvision's stochastic depth, which only training has."""
    require(not training, "a path is dropped at random, as in training")
    return x


WORDS: Mapping[str, Callable[..., Any]] = {
    "getattr": _attribute_of,
    "slice": slice,
    "len": len,
    "int": int,
    "float": float,
    "bool": bool,
    "max": max,
    "min": min,
    "abs": abs,
    "tuple": tuple,
    "list": list,
    "device": torch.device,
    "torchvision_ops_stochastic_depth_stochastic_depth": _not_dropped,
}
