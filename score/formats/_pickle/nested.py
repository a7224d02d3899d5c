"""What a pickle holds as bytes of its own: a storage, as Python's own pickle writes those of torch's tensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from score.errors import MalformedFile
from score.formats._pickle.legacy import read_legacy, starts
from score.formats._pickle.read import Pickled


def load_from_bytes(data: Any) -> Pickled:
    """What `torch.storage._load_from_bytes(data)` gives: a storage that is mapped where the bytes lie. Raises
    `MalformedFile`."""
    if not isinstance(data, (bytes, bytearray, memoryview)) or not starts(bytes(data[:16])):
        raise MalformedFile("a tensor's bytes are not what torch.save wrote")
    view = memoryview(data)
    return read_legacy(view, "a tensor's bytes", partial(_storage, view))[0]


def _storage(view: memoryview, offset: int, nbytes: int) -> torch.UntypedStorage:
    if nbytes == 0:
        return torch.UntypedStorage(0)
    part: Any = view[offset : offset + nbytes]
    if part.readonly:  # bytes; a mapping is copied when it is written to
        part = bytearray(part)
    return torch.frombuffer(part, dtype=torch.uint8).untyped_storage()
