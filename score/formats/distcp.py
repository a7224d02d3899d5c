"""`distcp`: a torch.distributed.checkpoint folder. A pickled `.metadata`, and `.distcp` files with the shards.

Merged without a process group: a tensor in one piece is mapped where it lies; one in several pieces is put together
when it is loaded. Megatron's `torch_dist` is one, with its arguments beside. Source: torch/distributed/checkpoint,
filesystem.py and metadata.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from score.errors import MalformedFile
from score.formats._io.folder import within
from score.formats._io.source import Source
from score.formats._io.zip import Archive
from score.formats._megatron import stacked
from score.formats._megatron.stacked import Cut
from score.formats._pickle.inert import settled
from score.formats._pickle.read import no_storages, read_pickle
from score.formats.base import Checkpoint, OpaqueObject, StateDict, TensorRef, computed
from score.formats.probe import Probe
from score.formats.torch_zip import read_archive

NAME = "distcp"
PRIORITY = 0
SERVABLE = True

Item = tuple[str, int, int]  # file, offset, length
Size = tuple[int, ...]


def detect(probe: Probe) -> bool:
    return probe.is_dir and (probe.path / ".metadata").is_file()


def open(path: Path, read: str) -> Checkpoint:
    pickled = read_pickle((path / ".metadata").read_bytes(), no_storages, name=f"{path.name}/.metadata")
    described = _attributes(pickled.value)
    entries, paths = _mapping(described, "state_dict_metadata"), described.get("planner_data")
    items = _items(path, _mapping(described, "storage_data"))
    tree: dict[Any, Any] = {}
    pieces = _Pieces(path, read)
    common = path / stacked.COMMON
    of_megatron = common.is_file() and not common.is_symlink()
    for name, entry in entries.items():
        parts = paths.get(name) if isinstance(paths, dict) else None
        value = _value(pieces, name, entry, items)
        if isinstance(value, Cut) and of_megatron:
            tree.update({each: _merged(path, each, cut) for each, cut in stacked.layers(name, value)})
        elif value is not None:
            whole = _merged(path, name, value) if isinstance(value, Cut) else value
            _put(tree, parts if isinstance(parts, tuple) and parts else (name,), whole)
    metadata = {"version": described.get("version")}
    if of_megatron:
        return stacked.opened(NAME, path, tree, metadata, read)
    return StateDict(NAME, path, tree, metadata=metadata)


def _attributes(value: Any) -> dict[Any, Any]:
    if isinstance(value, OpaqueObject):
        return value.attributes()
    raise MalformedFile("the .metadata is not that of a distributed checkpoint")


def _numbers(value: Any) -> Size:
    if isinstance(value, (tuple, list)) and all(isinstance(number, int) and number >= 0 for number in value):
        return tuple(value)
    raise MalformedFile("the .metadata has something else where a size or an offset belongs")


def _mapping(described: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    found = described.get(name)
    if isinstance(found, dict):
        return found
    raise MalformedFile(f"the .metadata has no {name}")


def _items(folder: Path, storage: Mapping[Any, Any]) -> dict[tuple[str, tuple[int, ...]], Item]:
    """Where each piece lies, by the tensor's name and the piece's offsets in it."""
    found = {}
    for index, info in storage.items():
        at, place = _attributes(index), _attributes(info)
        if place.get("transform_descriptors"):
            raise MalformedFile(f"{folder.name}: shards written with transforms (such as compression) can't be read")
        key = (str(at.get("fqn")), _numbers(at.get("offset") or ()))
        found[key] = (str(place.get("relative_path")), place.get("offset"), place.get("length"))
    return found  # type: ignore[return-value]  # numbers are checked where they are used


class _Pieces:
    """The items of the `.distcp` files, each a torch.save archive in a window of its file. Each is read once, however
    many names have it."""

    def __init__(self, folder: Path, read: str) -> None:
        self.folder, self._how = folder, read
        self._files: dict[str, Source] = {}
        self._read: dict[Item, Any] = {}

    def read(self, item: Item) -> Any:
        name, offset, length = item
        if not isinstance(offset, int) or not isinstance(length, int):
            raise MalformedFile(f"{self.folder.name}: an item of {name} has no place")
        if item not in self._read:
            if name not in self._files:
                self._files[name] = Source(within(self.folder, name), self._how)
            self._read[item] = read_archive(Archive(self._files[name].window(offset, length, name)))[0].value
        return self._read[item]


def _value(pieces: _Pieces, name: str, entry: Any, items: dict[tuple[str, Size], Item]) -> Any:
    """A tensor's pieces; or any other value, read from its one."""
    described, folder = _attributes(entry), pieces.folder
    if "chunks" not in described:
        item = items.get((name, ()))
        return pieces.read(item) if item else None
    size = _numbers(described.get("size"))
    found = []
    used: set[Item] = set()
    chunks = described["chunks"] if isinstance(described["chunks"], list) else []
    for chunk in chunks:
        at = _attributes(chunk)
        offsets, sizes = _numbers(at.get("offsets")), _numbers(at.get("sizes"))
        item = items.get((name, offsets)) or (items.get((name, ())) if len(chunks) == 1 else None)
        if item is None:
            raise MalformedFile(f"{folder.name}: no file holds the piece of {name!r} at {list(offsets)}")
        if item in used:  # a few bytes would become a tensor of any size
            raise MalformedFile(f"{folder.name}: two pieces of {name!r} are the same bytes")
        used.add(item)
        ref = settled(pieces.read(item))
        if not isinstance(ref, TensorRef) or ref.shape != sizes:
            raise MalformedFile(f"{folder.name}: the piece of {name!r} at {list(offsets)} is not of size {list(sizes)}")
        found.append((offsets, ref))
    return Cut(size, tuple(found))


def _merged(folder: Path, name: str, cut: Cut) -> TensorRef:
    size, pieces = cut.shape, cut.pieces
    if not pieces:
        raise MalformedFile(f"{folder.name}: {name!r} has no pieces")
    first = pieces[0][1]
    if len(pieces) == 1 and first.shape == size:
        return first
    total = math.prod(size)
    fits = all(len(offsets) == len(size) and _inside(offsets, ref.shape, size) for offsets, ref in pieces)
    if not fits or sum(ref.numel for _, ref in pieces) != total:
        raise MalformedFile(f"{folder.name}: the pieces of {name!r} do not make up its size {list(size)}")

    def load() -> torch.Tensor:
        whole = torch.empty(size, dtype=first.dtype)
        seen = torch.zeros(size, dtype=torch.bool)
        for offsets, ref in pieces:
            place = tuple(slice(o, o + n) for o, n in zip(offsets, ref.shape, strict=True))
            whole[place] = ref.load()
            seen[place] = True
        if not bool(seen.all()):
            raise MalformedFile(f"{folder.name}: the pieces of {name!r} overlap, and leave a gap")
        return whole

    return computed(first.dtype_name, size, load)


def _inside(offsets: Size, shape: Size, size: Size) -> bool:
    return all(at >= 0 and at + length <= total for at, length, total in zip(offsets, shape, size, strict=True))


def _put(tree: dict[Any, Any], parts: tuple[Any, ...], value: Any) -> None:
    """Set a value at its nested place."""
    if not all(isinstance(part, (str, int)) for part in parts):
        raise MalformedFile("the .metadata has keys that are neither text nor numbers")
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise MalformedFile("the .metadata nests values in a tensor")
    tree[parts[-1]] = value
