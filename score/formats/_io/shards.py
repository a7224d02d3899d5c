"""Weights split over several files, with a JSON index that says which tensor is in which.

Written by transformers, accelerate and huggingface_hub: {"metadata": {...}, "weight_map": {tensor: file}}.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from score.errors import MalformedFile, NoCheckpoint
from score.formats._io.source import refuse_pointer, resolved
from score.formats._pickle.inert import settled
from score.formats.base import Checkpoint, StateDict, TensorRef
from score.formats.probe import Probe

MAX_INDEX = 256 << 20


def index(probe: Probe, suffix: str) -> Path | None:
    """The one index in a folder; None for a file, or a folder without."""
    if not probe.is_dir:
        return None
    found = sorted(path for path in _listed(probe.path) if path.name.endswith(suffix))
    return found[0] if len(found) == 1 else None


def described(probe: Probe) -> bool:
    """Whether a `config.json` says what the weights are of, which makes the folder an hf-dir."""
    return probe.is_dir and os.path.isfile(probe.path / "config.json")  # noqa: PTH113  # False where it can't be read


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except PermissionError:
        return []  # the search for a checkpoint says so


def contained(folder: Path, name: Any) -> Path:
    """A path that a file names, in its folder. Raises `MalformedFile` for one outside, be it by a link."""
    path = folder / str(name)
    target, top = resolved(path), resolved(folder)
    if not isinstance(name, str) or target is None or top is None or not target.is_relative_to(top):
        raise MalformedFile(f"{folder.name}: it names {name!r}, which is not in the folder")
    return path


def within(folder: Path, name: Any) -> Path:
    """The same for a file that has to be there (`NoCheckpoint`)."""
    path = contained(folder, name)
    if not path.is_file():
        raise NoCheckpoint(
            f"{folder.name}: the index names {name}, and there is no such file",
            hint="Copy all shards into the folder, beside the index.",
        )
    return path


def json_file(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sane size."""
    if path.stat().st_size > MAX_INDEX:
        raise MalformedFile(f"{path.name} takes {path.stat().st_size:,} bytes, too much for what it is")
    content = path.read_bytes()
    refuse_pointer(path, content)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise MalformedFile(f"{path.name} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise MalformedFile(f"{path.name} is not a JSON object")
    return value


def open_index(
    folder: Path, suffix: str, read: str, name: str, open_shard: Callable[[Path, str], Checkpoint]
) -> Checkpoint:
    """All shards as one mapping. Every tensor of the index has to be in the shard that it names."""
    path = index(Probe(folder), suffix)
    assert path is not None, "open is called after detect"
    document = json_file(path)
    places = document.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise MalformedFile(f"{path.name} has no weight_map")
    shards = {shard: open_shard(within(folder, shard), read) for shard in dict.fromkeys(places.values())}
    tree: dict[str, TensorRef] = {}
    for tensor, shard in places.items():
        held = shards[shard].tree
        ref = settled(held.get(tensor)) if isinstance(held, dict) else None
        if not isinstance(ref, TensorRef):
            raise MalformedFile(f"{path.name} places {tensor!r} in {shard}, which does not hold it")
        tree[tensor] = ref
    unsafe = dict.fromkeys(name for shard in shards.values() for name in shard.unsafe_globals)
    metadata = document.get("metadata")
    shown = metadata if isinstance(metadata, dict) else {}
    return StateDict(name, folder, tree, unsafe_globals=tuple(unsafe), metadata={"shards": len(shards), **shown})
