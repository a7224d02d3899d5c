"""`npz`: a numpy archive of arrays by name, read without pickle.

Specification: numpy/lib/format.py, "Format Version 1.0" and after.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from score.errors import MalformedFile, UnsupportedFormat
from score.formats._io.source import Source, as_bytes
from score.formats._io.zip import Archive
from score.formats._pickle.numpy_arrays import torch_dtype
from score.formats._pickle.rebuild import StorageRef, row_major, strided
from score.formats.base import Checkpoint, StateDict, TensorRef
from score.formats.probe import Probe

NAME = "npz"
PRIORITY = 0
SERVABLE = True
MAX_HEADER = 65536


def detect(probe: Probe) -> bool:
    return bool(probe.names) and all(name.endswith(".npy") for name in probe.names)


def open(path: Path, read: str) -> Checkpoint:
    archive = Archive(Source(path, read))
    return StateDict(NAME, path, {name.removesuffix(".npy"): _array(archive, name) for name in archive.entries})


def _array(archive: Archive, record: str) -> TensorRef:
    """One `.npy` record as a tensor. Raises `UnsupportedFormat` for arrays of Python objects or text."""
    shape, fortran, dtype, start = _header(archive, record)
    if dtype.hasobject:
        raise UnsupportedFormat(f"{archive.path.name}: {record} holds Python objects, which only a pickle can carry")
    kind = torch_dtype(dtype)
    if kind is None:
        raise UnsupportedFormat(f"{archive.path.name}: {record} is of numpy dtype {dtype}, which torch lacks")
    strides = row_major(shape[::-1])[::-1] if fortran else row_major(shape)
    if start + math.prod(shape) * dtype.itemsize != archive.size(record, whole=True):
        raise MalformedFile(f"{archive.path.name}: {record} of shape {shape} is not as long as its record")
    stored = StorageRef(kind, archive.size(record, whole=True) - start, lambda: _bytes(archive, record, start, dtype))
    return strided(stored, 0, shape, strides)


def _bytes(archive: Archive, record: str, start: int, dtype: np.dtype[Any]) -> torch.UntypedStorage:
    part: np.ndarray = as_bytes(archive.storage(record, whole=True)).numpy()[start:]
    turned = part.view(dtype).astype(dtype.newbyteorder("="))  # a copy, since the header leaves it unaligned
    return torch.from_numpy(turned.view(np.uint8)).untyped_storage()


def _header(archive: Archive, record: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, Fortran order, dtype, where the elements start)."""
    head = io.BytesIO(archive.head(record, MAX_HEADER))
    try:
        version = npy.read_magic(head)
        reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if reader is None:
            raise ValueError(f"version {version} of the npy format")
        shape, fortran, dtype = reader(head)
    except Exception as error:  # noqa: BLE001  # numpy parses the header as Python: TokenError, RecursionError ...
        raise MalformedFile(f"{archive.path.name}: {record} has no valid header ({error})") from None
    return tuple(int(size) for size in shape), bool(fortran), dtype, head.tell()
