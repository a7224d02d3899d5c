"""Arrays in numpy's npy format, read without pickle and without a copy."""

import io
import math

import numpy as np
from numpy.lib import format as npy

from score.errors import InvalidArray, NotNumeric

MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_array(data: bytes, where: str) -> np.ndarray:
    """Raises `InvalidArray`, or `NotNumeric` for an array of something else than numbers."""
    head = io.BytesIO(data)
    try:
        version = npy.read_magic(head)
        if version not in _READERS:
            raise ValueError(f"version {version} of the npy format")
        shape, fortran, dtype = _READERS[version](head)
    except Exception as error:  # noqa: BLE001  # numpy parses the header as Python: TokenError, RecursionError ...
        raise InvalidArray(f"{where} has no valid npy header ({error})") from None
    if dtype.kind not in "biuf":
        raise NotNumeric(f"{where} is an array of {dtype}, not of numbers")
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - head.tell()
    if expected != found or any(size < 0 for size in shape):
        raise InvalidArray(f"{where}: an array of {dtype}{list(shape)} is {expected} bytes, and {found} follow")
    values = np.frombuffer(data, dtype, offset=head.tell()).reshape(shape, order="F" if fortran else "C")
    return values.astype(dtype.newbyteorder("="), copy=False)
