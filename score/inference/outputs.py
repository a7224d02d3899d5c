"""What a model returned, as arrays by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from score.codecs.base import ONLY, Arrays, Records
from score.errors import ModelRejected

Leaf = Callable[[torch.Tensor], Any]


def arrays(value: Any) -> Arrays:
    """One tensor as one array; a list of dicts (or of dataclasses) as `Records`; anything else as arrays by name.

    Names are those of a dict, a named tuple or a dataclass, with a point between where they are nested; what has none
    is `output_0`, `output_1`... Text is an array of text, a list of texts or of numbers one array. None, and the caches
    of transformers, are left out. Raises `ModelRejected` for anything that is no tensor, number or text.
    """
    found: Arrays = named(value, array)
    return found


def named(value: Any, of: Leaf) -> Any:
    """The same, with what `of` makes of each tensor in its place."""
    if isinstance(value, torch.Tensor):
        return of(value)
    if isinstance(value, np.ndarray):
        return value
    if _is_plain(value):
        return np.asarray(value)
    if _is_list(value) and value and all(map(_has_names, value)):
        return Records([dict(_flatten(each, "", of)) for each in value])
    if _is_list(value) and len(value) == 1:
        return named(value[0], of)
    found = dict(_flatten(value, "", of))
    if not found:
        raise ModelRejected(f"the model returned a {type(value).__name__} with no tensor, number or text in it")
    return found


def completed(found: Any) -> Arrays:
    """What `named` has found, with an array in place of each tensor that is left."""
    if isinstance(found, Records):
        return Records([{name: _array(value) for name, value in row.items()} for row in found.rows])
    if isinstance(found, Mapping):
        return {name: _array(value) for name, value in found.items()}
    return _array(found)


def _array(value: Any) -> np.ndarray:
    return array(value) if isinstance(value, torch.Tensor) else value


def _flatten(value: Any, name: str, of: Leaf) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield name or ONLY, of(value)
    elif isinstance(value, np.ndarray):
        yield name or ONLY, value
    elif _is_plain(value):
        yield name or ONLY, np.asarray(value)
    elif _has_names(value):
        for key, item in _items(value):
            yield from _flatten(item, f"{name}.{key}" if name else key, of)
    elif _is_list(value):
        for index, item in enumerate(value):
            yield from _flatten(item, f"{name or ONLY}_{index}", of)
    elif value is not None and not type(value).__module__.startswith("transformers."):
        raise ModelRejected(
            f"the model returned a {type(value).__name__}" + (f" as {name}" if name else ""),
            hint="Have forward return tensors, numbers or texts; or lists, dicts, tuples and dataclasses of these.",
        )


def _is_plain(value: Any) -> bool:
    """Whether a value is a number or a text of Python or numpy, or a list of one kind of these."""
    if isinstance(value, (str, *_NUMBERS)):
        return True
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, str) for item in value) or all(isinstance(item, _NUMBERS) for item in value)


_NUMBERS = (bool, int, float, np.number, np.bool_)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and not hasattr(value, "_fields")


def _has_names(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        or (isinstance(value, tuple) and hasattr(value, "_fields"))
        or (is_dataclass(value) and not isinstance(value, type))
    )


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return ((str(key), item) for key, item in value.items())
    if isinstance(value, tuple):
        return iter(value._asdict().items())  # type: ignore[attr-defined]
    return ((field.name, getattr(value, field.name)) for field in fields(value))


def array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as numpy can hold it: dense, on the CPU; half and smaller floats as float32, complex as pairs."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    found: np.ndarray = tensor.cpu().contiguous().numpy()
    return found
