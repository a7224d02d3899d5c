"""Arrays as joblib dumps them: between the instructions of the pickle, behind an object that says what they are.

Source: joblib/numpy_pickle.py, `NumpyArrayWrapper.read_array`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from score.errors import MalformedFile
from score.formats._pickle.numpy_arrays import DtypeShell
from score.formats.base import OpaqueObject

_NAME = "joblib.numpy_pickle.NumpyArrayWrapper"
WRAPPERS = frozenset((_NAME, f"sklearn.externals.{_NAME}"))


def is_wrapper(value: Any) -> bool:
    """Whether a value's bytes follow in the stream."""
    return isinstance(value, OpaqueObject) and value.path in WRAPPERS


def array(wrapper: OpaqueObject, take: Callable[[int], Any]) -> np.ndarray:
    """The array behind its wrapper; `take(count)` gives the next bytes of the stream. Raises `MalformedFile`."""
    kind, shape = wrapper.attribute("dtype"), wrapper.attribute("shape")
    if isinstance(kind, DtypeShell):
        kind = None if kind.name.startswith("O") else kind.dtype
    if not isinstance(shape, tuple) or not all(map(_is_size, shape)):
        raise MalformedFile("an array of joblib's without its shape")
    if not isinstance(kind, np.dtype) or kind.hasobject:
        raise MalformedFile("an array of joblib's holds Python objects, which are no weights")
    if wrapper.attribute("numpy_array_alignment_bytes") is not None:
        take(take(1)[0])
    found: np.ndarray = np.frombuffer(take(math.prod(shape) * kind.itemsize), kind)
    return found.reshape(shape, order="F" if wrapper.attribute("order") == "F" else "C")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 40
