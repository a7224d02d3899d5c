"""Arrays in numpy's npy format, read without pickle and without a copy.

numpy parses a header as Python, and formats one with as much care; most requests have the same few, so both are kept.
"""

import io
import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from score.errors import InvalidArray, NotNumeric

MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
MOST_DIMENSIONS = 32
_LONGEST = 1024  # bytes of a header; those of arrays of numbers are a tenth of it


def read_array(data: bytes, where: str) -> np.ndarray:
    """Raises `InvalidArray`, or `NotNumeric` for an array of something else than numbers."""
    wide = data[6:7] != b"\x01"  # the length of the header has two bytes in version 1, four after
    start = (12 if wide else 10) + int.from_bytes(data[8 : 12 if wide else 10], "little")
    if start > _LONGEST:
        raise InvalidArray(f"{where} has no valid npy header (it says that it has {start} bytes)")
    try:
        shape, order, dtype, expected = _header(data[:start])
    except Exception as error:  # noqa: BLE001  # numpy parses the header as Python: TokenError, RecursionError ...
        raise InvalidArray(f"{where} has no valid npy header ({error})") from None
    if len(shape) > MOST_DIMENSIONS:
        raise InvalidArray(f"{where} is an array of {len(shape)} dimensions; at most {MOST_DIMENSIONS} are taken")
    if dtype.kind not in "biuf":
        raise NotNumeric(f"{where} is an array of {dtype}, not of numbers")
    if expected != len(data) - start:
        raise InvalidArray(
            f"{where}: an array of {dtype}{list(shape)} is {expected} bytes, and {len(data) - start} follow"
        )
    values = np.frombuffer(data, dtype, offset=start).reshape(shape, order=order)
    return values if dtype.isnative else values.astype(dtype.newbyteorder("="))


def write_array(values: np.ndarray) -> bytes:
    """An array as numpy.save writes it."""
    return _head(values.dtype.str, values.shape) + values.tobytes()


class _Header(NamedTuple):
    shape: tuple[int, ...]
    order: Literal["F", "C"]
    dtype: np.dtype
    nbytes: int  # what follows


@lru_cache(256)
def _header(head: bytes) -> _Header:
    stream = io.BytesIO(head)
    version = npy.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"version {version} of the npy format")
    shape, fortran, dtype = _READERS[version](stream)
    if stream.tell() != len(head):
        raise ValueError("its length is not what it says")
    if any(size < 0 for size in shape):
        raise ValueError(f"a size in {list(shape)} is negative")
    return _Header(shape, "F" if fortran else "C", dtype, math.prod(shape) * dtype.itemsize)


@lru_cache(256)
def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()
