"""What all generations of torch.save share: a pickle that names storages, which lie elsewhere in the file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from score.errors import MalformedFile
from score.formats import dtypes
from score.formats._io.source import as_bytes
from score.formats._pickle.inert import Restricted
from score.formats._pickle.rebuild import StorageRef, storage_dtype
from score.formats._pickle.vm import Policy, Unpickler
from score.formats.base import GlobalName, OpaqueObject

MOST_SHOWN = 10_000  # values of a checkpoint's metadata
MOST_BITS = 10_000  # of an integer that is written in digits; Python refuses longer ones

# (key, dtype, bytes) -> the storage; the caller knows where in the file it lies
FindStorage = Callable[[str, str, int], StorageRef]


@dataclass
class Storages:
    """The persistent ids of one file: each names a storage by key, or a class by its source.

    `locations` collects the devices that the tensors were saved from.
    """

    find: FindStorage
    by_key: dict[str, StorageRef] = field(default_factory=dict)
    locations: dict[str, None] = field(default_factory=dict)

    def __call__(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and pid[:1] == ("module",) and len(pid) == 4:
            return pid[1]  # torch-legacy: a class with its source code, which stays where it is
        if isinstance(pid, tuple) and pid[:1] == ("reduce_package",):
            return OpaqueObject(
                "torch.package.reduce_package", pid[1:]
            )  # an object that only the package's code can make
        if not isinstance(pid, tuple) or pid[:1] != ("storage",) or len(pid) not in (5, 6):
            raise MalformedFile(f"a persistent id {pid!r:.80} that is no storage")
        _, kind, key, location, numel, *view = pid
        if not isinstance(numel, int) or numel < 0:
            raise MalformedFile(f"a storage of {numel!r} elements")
        dtype = storage_dtype(kind)
        key = str(key)
        self.locations[str(location)] = None
        if key not in self.by_key:
            self.by_key[key] = self.find(key, dtype, numel * dtypes.ITEMSIZE[dtype])
        root = self.by_key[key]
        return _view(root, view[0]) if view and view[0] is not None else _typed(root, dtype)


def _typed(root: StorageRef, dtype: str) -> StorageRef:
    return root if root.dtype_name == dtype else StorageRef(dtype, root.nbytes, lambda: root.untyped, root.content)


def _view(root: StorageRef, view: Any) -> StorageRef:
    """torch 0.1 to 1.5 could save a storage that is a window (key, offset, length in elements) of another."""
    _key, offset, length = view
    return window(root, offset, length)


def window(root: StorageRef, offset: Any, length: Any) -> StorageRef:
    """`length` elements of a storage from `offset`, as a storage of its own."""
    if not isinstance(offset, int) or not isinstance(length, int):
        raise MalformedFile("a storage view without numbers")
    itemsize = dtypes.ITEMSIZE[root.dtype_name]
    start, stop = offset * itemsize, (offset + length) * itemsize
    if not 0 <= start <= stop <= root.nbytes:
        raise MalformedFile("a storage view reaches past its storage")

    def fetch() -> torch.UntypedStorage:
        return as_bytes(root.untyped)[start:stop].clone().untyped_storage()

    return StorageRef(root.dtype_name, stop - start, fetch)


@dataclass(frozen=True)
class Pickled:
    """One pickle, read: its value, the names in it that were not imported, and the devices of its tensors."""

    value: Any
    unsafe: tuple[str, ...]
    locations: tuple[str, ...]
    end: int


def read_pickle(data: Any, find: FindStorage, *, name: str, position: int = 0, policy: Policy | None = None) -> Pickled:
    """Read the pickle at `data[position:]` under `policy` (by default the one that runs nothing)."""
    storages = Storages(find)
    restricted = Restricted(len(data))
    machine = Unpickler(data, policy or restricted, storages, position=position, name=name)
    value = machine.load()
    return Pickled(value, tuple(restricted.unsafe), tuple(storages.locations), machine.position)


def no_storages(key: str, dtype: str, nbytes: int) -> StorageRef:
    """For pickles that can't name a storage."""
    raise MalformedFile(f"the storage {key!r} is named where there are none")


def swapped(storage: torch.UntypedStorage, dtype: str) -> torch.UntypedStorage:
    """A copy of a storage written on a machine of the other byte order."""
    width = dtypes.ITEMSIZE[dtype] // (2 if dtype.startswith("complex") else 1)
    raw = as_bytes(storage)
    turned = raw.numpy().view(np.dtype(f"V{width}")).view(f"u{width}").byteswap() if width > 1 else raw.numpy().copy()
    return torch.from_numpy(turned.view(np.uint8)).untyped_storage()


def foreign_byte_order(order: str) -> bool:
    """Whether `little` or `big` is not this machine's; torch wrote no byte order before 2.1 and meant little."""
    return bool(order) and order != sys.byteorder


def metadata(value: Any, limit: int = 64) -> Mapping[str, Any]:
    """The plain values at the top of a checkpoint (epoch, versions, hyper-parameters) that JSON can show."""
    if not isinstance(value, dict):
        return {}
    shown = (
        (str(key), plain(item))
        for key, item in list(value.items())[:limit]
        if not (isinstance(item, dict) and "param_groups" in item)  # an optimizer's state is no one's metadata
    )
    return {key: item for key, item in shown if item is not None}


def plain(value: Any, depth: int = 4, budget: list[int] | None = None) -> Any:
    """A value as JSON shows it, or None where it is not plain or too large to be read by a person: `budget` is how many
    values are shown in all, since the same one may be met many times over."""
    budget = [MOST_SHOWN] if budget is None else budget
    budget[0] -= 1
    if budget[0] < 0:
        return None
    if isinstance(value, (str, bool, int, float)):
        text = isinstance(value, str) and len(value) > 1000
        large = isinstance(value, int) and abs(value) >= 1 << 63
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            return f"an integer of {value.bit_length():,} bits"
        return str(value)[:1000] if text or large or value != value else value
    if isinstance(value, GlobalName):
        return value.path
    if isinstance(value, OpaqueObject) and any("_modules" in part for part in value.states()):
        return value.path  # a module: what it holds is weights, not metadata
    if depth and isinstance(value, OpaqueObject):
        if sum(map(len, value.containers())) > 512:
            return None
        return plain({**value.attributes(), **value.mapping}, depth, budget)
    if depth and isinstance(value, dict) and len(value) <= 256:
        items = {str(key): plain(item, depth - 1, budget) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not None} or None
    if depth and isinstance(value, (list, tuple)) and 0 < len(value) <= 64:
        listed = [plain(item, depth - 1, budget) for item in value]
        return listed if all(item is not None for item in listed) else None
    return None
