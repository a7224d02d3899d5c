"""The content of a torch.save file of before 1.6, be it a file or bytes that another pickle holds.

Five pickles (magic number, protocol version, facts of the machine, the object, the list of storage keys), then for
each key an int64 count and the elements. Source: torch/serialization.py, `_legacy_load`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from score.errors import MalformedFile, TruncatedFile
from score.formats import dtypes
from score.formats._pickle.read import Pickled, foreign_byte_order, no_storages, read_pickle, swapped
from score.formats._pickle.rebuild import StorageRef
from score.formats._pickle.trusted import Trusted

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
MAGIC = MAGIC_NUMBER.to_bytes(10, "little")
PROTOCOL_VERSION = 1001


def starts(head: bytes) -> bool:
    """Whether bytes begin as such a file does."""
    # PROTO n, LONG1 of 10 bytes: any pickle protocol the saver chose, and nothing else starts so.
    return head[:1] == b"\x80" and head[2:4] == b"\x8a\n" and head[4:14] == MAGIC


def read_legacy(
    data: Any, name: str, storage: Callable[[int, int], torch.UntypedStorage]
) -> tuple[Pickled, Callable[[], Any]]:
    """The content of `data`, and how to read it again with its classes imported; `storage(offset, nbytes)` brings in a
    range of it."""
    position = 0
    facts: list[Any] = []
    for _ in range(3):
        pickled = read_pickle(data, no_storages, name=name, position=position)
        facts.append(pickled.value)
        position = pickled.end
    _magic, protocol, system = facts
    if protocol != PROTOCOL_VERSION or not isinstance(system, dict):
        raise MalformedFile(f"{name}: torch-legacy protocol {protocol!r} instead of {PROTOCOL_VERSION}")
    swap = foreign_byte_order("little" if system.get("little_endian", True) else "big")
    offsets: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}

    def find(key: str, dtype: str, nbytes: int) -> StorageRef:
        sizes[key] = (nbytes, dtypes.ITEMSIZE[dtype])

        def fetch() -> torch.UntypedStorage:
            raw = storage(offsets[key], nbytes)
            return swapped(raw, dtype) if swap else raw

        def content() -> memoryview:
            return memoryview(data)[offsets[key] : offsets[key] + nbytes]

        return StorageRef(dtype, nbytes, fetch, None if swap else content)

    start = position
    content = read_pickle(data, find, name=name, position=start)
    keys = read_pickle(data, no_storages, name=name, position=content.end)
    position = keys.end
    for key in map(str, keys.value if isinstance(keys.value, list) else ()):
        if key not in sizes:
            raise MalformedFile(f"{name}: the storage {key!r} is listed and never used")
        nbytes, width = sizes[key]
        count = int.from_bytes(bytes(data[position : position + 8]), "big" if swap else "little", signed=True)
        if count * width != nbytes:
            raise MalformedFile(f"{name}: the storage {key!r} has {count:,} elements instead of {nbytes // width:,}")
        offsets[key] = position + 8
        position += 8 + nbytes
        if position > len(data):
            raise TruncatedFile(
                f"{name}: the storage {key!r} takes bytes {offsets[key]:,} to {position:,}, but the file has "
                f"{len(data):,}"
            )
    if missing := sorted(set(sizes) - set(offsets)):
        raise TruncatedFile(f"{name}: the storages {', '.join(missing[:5])} are named and not in the file")

    def load_trusted() -> Any:
        return read_pickle(data, find, name=name, position=start, policy=Trusted(content.unsafe)).value

    return content, load_trusted
