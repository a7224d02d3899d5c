"""What a model takes: names, dtypes and shapes, and the check of a request against them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from score.codecs.base import Arrays
from score.errors import InvalidSetting, NotNumeric, WrongDtype, WrongInputs, WrongShape

Shape = tuple[int | None, ...]

_SPEC = re.compile(r"(?P<dtype>\w+)(?:\[(?P<dims>[^\]]*)\])?\Z")
_SCALARS = {"py_int": int, "py_float": float, "py_bool": bool}  # TorchScript takes Python values beside tensors


@dataclass(frozen=True)
class InputSpec:
    """One input. `shape` counts the batch first and has None where any size goes; None as a whole means unknown.

    `example` is a shape that the model is known or expected to take.
    """

    name: str
    dtype: str
    shape: Shape | None = None
    example: tuple[int, ...] | None = None
    required: bool = True

    @cached_property
    def scalar(self) -> bool:
        return self.dtype in _SCALARS

    @cached_property
    def torch_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def __str__(self) -> str:
        if self.scalar or self.shape is None:
            return self.dtype
        dims = [
            "N" if size is None and axis == 0 else "?" if size is None else size for axis, size in enumerate(self.shape)
        ]
        return f"{self.dtype}[{', '.join(map(str, dims))}]"


@dataclass(frozen=True)
class Signature:
    """All inputs in the order that the model takes them; `source` says how that is known. One that is `guessed`
    advises: whatever else a request brings is tried."""

    inputs: tuple[InputSpec, ...]
    source: str
    guessed: bool = False

    @property
    def known(self) -> bool:
        """Whether every required input has a shape, so that one can be made up."""
        return bool(self.inputs) and all(spec.scalar or spec.shape is not None for spec in self.inputs if spec.required)

    @cached_property
    def by_name(self) -> dict[str, InputSpec]:
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def required(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.inputs if spec.required)

    def __str__(self) -> str:
        takes = ", ".join(f"{spec.name}: {spec}" for spec in self.inputs)
        return f"takes {takes} ({'a guess, ' if self.guessed else ''}{self.source})"

    def as_dict(self) -> dict[str, Any]:
        inputs = {spec.name: str(spec) for spec in self.inputs}
        return {"inputs": inputs, "source": self.source, "guessed": self.guessed}


def parse(spec: str | Mapping[str, str], names: list[str], source: str) -> Signature:
    """`float32[N, 1, 8, 8]`, or a mapping from input names to such, as a signature.

    A dimension is a number, or a word, `?` or `-1` for any size. A single spec is for the model's first input.
    """
    given = {names[0] if names else "input": spec} if isinstance(spec, str) else dict(spec)
    return Signature(tuple(_input(name, text) for name, text in given.items()), source)


def _input(name: str, text: str) -> InputSpec:
    match = _SPEC.match(text.strip())
    dtype = getattr(torch, match["dtype"], None) if match else None
    if match is None or not (isinstance(dtype, torch.dtype) or match["dtype"] in _SCALARS):
        raise InvalidSetting(f"{text!r} does not describe an input; one looks like float32[N, 3, 224, 224]")
    label = str(dtype).removeprefix("torch.") if dtype else match["dtype"]
    if match["dims"] is None:
        return InputSpec(name, label)
    dims = [dim.strip() for dim in match["dims"].split(",") if dim.strip()]
    shape = tuple(int(dim) if dim.isdigit() else None for dim in dims)
    return InputSpec(name, label, shape)


def validate(signature: Signature, arrays: Arrays, *, declared: bool = False) -> dict[str, Any]:
    """The arrays of a request as the tensors (or Python scalars) that the model takes, by input name. Where the sender
    has `declared` datatypes, integers are no floats; the only input of a model goes by any name.

    Raises `WrongInputs`, `WrongShape`, `WrongDtype` or `NotNumeric`.
    """
    specs = signature.by_name
    if declared and isinstance(arrays, Mapping):
        arrays = _as_declared(signature, arrays)
    if isinstance(arrays, np.ndarray):
        first = next(iter(specs), "input")
        arrays = {first: arrays}
    if arrays.keys() != specs.keys() and not signature.required <= arrays.keys() <= specs.keys():
        raise WrongInputs(f"the model takes {', '.join(specs) or 'no inputs'}; received {', '.join(arrays) or 'none'}")
    convert = _advised if signature.guessed else _convert
    return {name: convert(spec, arrays[name]) for name, spec in specs.items() if name in arrays}


def _as_declared(signature: Signature, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Arrays whose datatypes were declared, by the model's names. Raises `WrongDtype`."""
    if len(arrays) == 1 and len(signature.required) == 1 and not arrays.keys() & signature.by_name.keys():
        arrays = {next(iter(signature.required)): next(iter(arrays.values()))}
    for name, array in arrays.items():
        spec = signature.by_name.get(name)
        floats = spec is not None and not spec.scalar and spec.torch_dtype.is_floating_point
        if floats and array.dtype.kind in "iub" and not signature.guessed:
            raise WrongDtype(f"{name}: expected {spec}, received {array.dtype}, which is not cast in silence")
    return arrays


def _advised(spec: InputSpec, array: np.ndarray) -> Any:
    """What a guess says of an input is followed where the values allow it; its shape is the request's own."""
    if array.dtype.kind not in "biufc":
        raise NotNumeric(f"{spec.name}: received {array.dtype.kind!r} values where numbers belong")
    if spec.scalar:
        return _convert(spec, array)
    if not array.ndim or not array.shape[0]:
        raise WrongShape(f"{spec.name}: expected rows, as {spec}, received {_shown(array.shape)}")
    if array.dtype.kind == "b" and spec.torch_dtype != torch.bool:
        return torch.from_numpy(np.array(array, order="C", copy=True))
    whole = spec.torch_dtype.is_floating_point or array.dtype.kind != "f" or bool(np.all(np.mod(array, 1) == 0))
    return _cast(spec if whole else replace(spec, dtype="float32"), array)


def _convert(spec: InputSpec, array: np.ndarray) -> Any:
    if array.dtype.kind not in "biufc":
        raise NotNumeric(f"{spec.name}: received {array.dtype.kind!r} values where numbers belong")
    if spec.scalar:
        if array.size != 1:
            raise WrongShape(f"{spec.name}: expected one {spec.dtype}, received {_shown(array.shape)}")
        return _SCALARS[spec.dtype](array.reshape(()).item())
    if spec.shape is not None and not _fits(spec.shape, array.shape):
        raise WrongShape(f"{spec.name}: expected {spec}, received {_shown(array.shape)}")
    return _cast(spec, array)


def _fits(wanted: Shape, shape: tuple[int, ...]) -> bool:
    if len(wanted) != len(shape):
        return False
    for size, got in zip(wanted, shape, strict=True):  # noqa: SIM110  # a generator takes three times as long
        if size != got and (size is not None or got < 1):
            return False
    return True


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _cast(spec: InputSpec, array: np.ndarray) -> torch.Tensor:
    """The array in the model's dtype. Values may lose precision, never their meaning: no fraction is cut from a number
    meant for an integer, and nothing finite becomes infinite."""
    dtype = spec.torch_dtype
    if dtype == torch.float32 and (array.dtype == _SINGLE or _plainly_fits(array)):
        return torch.from_numpy(array.astype(np.float32, order="C"))
    if array.dtype.kind == "b" and dtype != torch.bool:
        raise WrongDtype(f"{spec.name}: expected {spec.dtype}, received booleans")
    if array.dtype.kind == "f" and not dtype.is_floating_point and not dtype.is_complex:
        if not np.all(np.mod(array, 1) == 0):
            raise WrongDtype(f"{spec.name}: expected {spec.dtype}, received numbers with a fraction")
        if array.size and np.abs(array).max() >= 2.0**63:
            raise WrongDtype(f"{spec.name}: {array.flat[np.abs(array).argmax()]:g} does not fit into {spec.dtype}")
        array = array.astype(np.int64)
    if array.dtype.kind in "iu" and not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool:
        limits = torch.iinfo(dtype)
        if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
            raise WrongDtype(f"{spec.name}: values from {array.min()} to {array.max()} do not fit into {spec.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64) if not array.size or array.max() < 1 << 63 else array.astype(np.float64)
    if dtype == torch.float32:  # what nearly all models take: numpy is quicker at it
        with np.errstate(over="ignore", invalid="ignore"):
            made = array.astype(np.float32, order="C")
            finite = math.isfinite(np.add.reduce(made, axis=None))  # one pass; a sum may be infinite by itself
        tensor = torch.from_numpy(made)
    else:
        tensor = torch.from_numpy(np.array(array, order="C", copy=True)).to(dtype)
        finite = not dtype.is_floating_point
    if not finite and _lost(tensor, array):
        raise WrongDtype(f"{spec.name}: a value is too large for {spec.dtype}")
    return tensor


_FEW = 64  # numbers: Python looks through them while numpy gets ready to
_LARGEST = 3.4e38  # a float32, about
_DOUBLE, _SINGLE = np.dtype(np.float64), np.dtype(np.float32)


def _plainly_fits(array: np.ndarray) -> bool:
    """Whether a few doubles are sure to be finite as float32: none is larger than the root of the sum of squares."""
    return array.dtype is _DOUBLE and array.size <= _FEW and math.hypot(*array.ravel().tolist()) <= _LARGEST


def _lost(tensor: torch.Tensor, array: np.ndarray) -> bool:
    """Whether a value that was finite is so no more."""
    return bool((np.isfinite(array) & ~torch.isfinite(tensor).numpy()).any())
