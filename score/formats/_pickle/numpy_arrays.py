"""numpy values inside a pickle, rebuilt from their bytes; written by numpy 1 (`numpy.core`) or 2 (`numpy._core`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from score.errors import MalformedFile
from score.formats import dtypes
from score.formats._pickle.vm import Python2Bytes
from score.formats.base import TensorRef

_PLAIN_DTYPE = re.compile(r"[<>|=]?[?biufcmMSUV]\d{0,6}(\[\w+\])?\Z")


@dataclass(eq=False)
class DtypeShell:
    """`numpy.dtype(name, ...)`, whose byte order comes later, with BUILD."""

    name: str
    order: str = "="

    def build(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.order = str(state[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        if not _PLAIN_DTYPE.match(self.name):
            raise MalformedFile(f"a numpy value of dtype {self.name!r} can't be read without running code")
        return np.dtype(self.name).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass(eq=False)
class ArrayShell:
    """An array as numpy pickles it: made empty, then BUILD gives (version, shape, dtype, fortran order, bytes)."""

    array: np.ndarray | None = None
    objects: list[Any] | None = None  # the elements of an object array

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise MalformedFile("a numpy array has no shape, dtype and bytes")
        shape, kind, fortran, data = state[-4:]
        if isinstance(data, list):
            self.objects = data
        else:
            self.array = from_buffer(data, kind, shape, "F" if fortran else "C").array

    def ref(self) -> TensorRef | None:
        """The array as a tensor, where torch has its dtype."""
        array = self.array
        if array is None:
            return None
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        dtype = torch_dtype(native.dtype)
        if dtype is None:
            return None
        return TensorRef(dtype, native.shape, native.nbytes, self, lambda: torch.from_numpy(native.copy()))


def torch_dtype(kind: np.dtype[Any]) -> str | None:
    """torch's name for numpy's dtype, of either byte order; None where torch has none."""
    return kind.name if kind.kind in "biufc" and kind.name in dtypes.ITEMSIZE else None


def dtype(name: Any, *_rest: Any) -> DtypeShell:
    return DtypeShell(str(name))


def reconstruct(*_args: Any) -> ArrayShell:
    return ArrayShell()


def of_dill(_made_by: Any, _args: Any, state: Any, _more: Any = None) -> ArrayShell:
    """`dill._dill._create_array`: an array and the state that BUILD would give it."""
    shell = ArrayShell()
    shell.build(state)
    return shell


def _raw(data: Any) -> bytes | memoryview:
    if isinstance(data, Python2Bytes):
        return data.raw
    if isinstance(data, str):
        return data.encode("latin-1")
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    if isinstance(data, memoryview):
        return data
    raise MalformedFile("a numpy value without its bytes")


def from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> ArrayShell:
    """`numpy._core.numeric._frombuffer`, and the state of a plain array."""
    if not isinstance(kind, DtypeShell) or not isinstance(shape, (tuple, list)):
        raise MalformedFile("a numpy array without its dtype or shape")
    raw = _raw(data)
    array = np.frombuffer(raw, kind.dtype).reshape(tuple(shape), order="F" if order == "F" else "C")
    return ArrayShell(array)


def scalar(kind: Any, data: Any = b"") -> Any:
    """`numpy.core.multiarray.scalar`: one value, as the Python value it is."""
    if not isinstance(kind, DtypeShell):
        raise MalformedFile("a numpy scalar without its dtype")
    if kind.name.startswith("O"):
        return data
    return np.frombuffer(_raw(data), kind.dtype, 1)[0].item()
