"""`rank-files`: a folder in which each rank of a training saved its own part, with DTensors or ShardedTensors in it.

The files are called the same but for the rank's number. Weights are put together without a process group, each when it
is brought in.
"""

import re
from pathlib import Path
from typing import Any

from score.errors import LoadError, MalformedFile
from score.formats import torch_bin_sharded, torch_zip
from score.formats._io.source import Source
from score.formats._io.zip import Archive
from score.formats._pickle import pieces
from score.formats._pickle.inert import settled
from score.formats._pickle.read import metadata
from score.formats.base import Checkpoint, StateDict
from score.formats.probe import Probe

NAME = "rank-files"
PRIORITY = 0
SERVABLE = True
_NUMBER = re.compile(r"\d+")
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
MOST_RANKS, MOST_DEPTH = 4096, 8


def detect(probe: Probe) -> bool:
    if not probe.is_dir:
        return False
    files = _numbered(probe.path)
    return bool(files) and _is_cut(files[0])


def _is_cut(path: Path) -> bool:
    """Whether a file of torch.save's names the classes of distributed tensors."""
    if not torch_zip.detect(Probe(path)):
        return False
    try:
        content = Archive(Source(path)).bytes("data.pkl")
    except LoadError:
        return False
    return b"DTensor" in content or b"ShardedTensor" in content


def _numbered(folder: Path) -> list[Path]:
    """The files whose names differ in one number alone, that goes from 0 on; none where others are beside."""
    try:
        files = [each for each in folder.iterdir() if each.suffix in _SUFFIXES and each.is_file()]
    except OSError:
        return []
    if not 2 <= len(files) <= MOST_RANKS or any(each.is_symlink() for each in files):
        return []
    names = [_NUMBER.split(each.stem) for each in files]
    numbers = [_NUMBER.findall(each.stem) for each in files]
    if any(name != names[0] or len(number) != len(numbers[0]) for name, number in zip(names, numbers, strict=True)):
        return []
    varying = [at for at in range(len(numbers[0])) if len({int(number[at]) for number in numbers}) > 1]
    if len(varying) != 1:
        return []
    by_rank = {int(number[varying[0]]): file for number, file in zip(numbers, files, strict=True)}
    return [by_rank[rank] for rank in range(len(files))] if set(by_rank) == set(range(len(files))) else []


def open(path: Path, read: str) -> Checkpoint:
    """Raises `MalformedFile` for a tensor of which a piece is in no file, and where ranks hold different things."""
    files = _numbered(path)
    opened = [torch_bin_sharded.open_shard(each, read) for each in files]
    tree = _Joining(path.name).joined([each.tree for each in opened], "", MOST_DEPTH)
    unsafe = dict.fromkeys(name for each in opened for name in each.unsafe_globals if name not in pieces.CLASSES)
    return StateDict(NAME, path, tree, unsafe_globals=tuple(unsafe), metadata={"ranks": len(files), **metadata(tree)})


class _Joining:
    """One folder's joining. What the ranks hold in several places is joined once."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.made: dict[tuple[int, ...], Any] = {}

    def joined(self, values: list[Any], place: str, depth: int) -> Any:
        """What the ranks hold in one place: a mapping of what is joined in it, a tensor, or the first rank's value."""
        first = settled(values[0])
        if isinstance(first, dict) and depth:
            key = tuple(map(id, values))
            if key not in self.made:
                self.made[key] = first  # where one holds itself
                self.made[key] = self._mapping(first, values, place, depth)
            return self.made[key]
        if not any(pieces.is_cut(value) for value in values):
            return first
        if not all(pieces.is_cut(value) for value in values):
            _differ(self.folder, place)
        found = pieces.joined([pieces.cut(value, rank) for rank, value in enumerate(values)])
        if found is None:
            raise MalformedFile(
                f"{self.folder}: pieces of {place.removeprefix('.')} are in none of the {len(values)} files",
                hint="Copy the files of all ranks into the folder.",
            )
        return found

    def _mapping(self, first: dict[Any, Any], values: list[Any], place: str, depth: int) -> Any:
        if not all(isinstance(value, dict) and value.keys() == first.keys() for value in values):
            return first if not _holds_cut(values) else _differ(self.folder, place)
        return {key: self.joined([value[key] for value in values], f"{place}.{key}", depth - 1) for key in first}


def _holds_cut(values: list[Any]) -> bool:
    return any(pieces.is_cut(each) for value in values if isinstance(value, dict) for each in value.values())


def _differ(folder: str, place: str) -> Any:
    raise MalformedFile(f"{folder}: the ranks hold different things as {place.removeprefix('.') or 'their whole'}")
