"""Weights split over several files, with a JSON index that says which tensor is in which.

Written by transformers, accelerate and huggingface_hub: {"metadata": {...}, "weight_map": {tensor: file}}.
"""

import os
from collections.abc import Callable
from pathlib import Path

from score.errors import MalformedFile
from score.formats import safetensors
from score.formats._io.folder import json_file, within
from score.formats._pickle.inert import settled
from score.formats.base import Checkpoint, StateDict, TensorRef
from score.formats.probe import Probe


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
    shown = {"shards": len(shards), **(metadata if isinstance(metadata, dict) else {})}
    parts = [shard.metadata.get(safetensors.TORCHAO, {}) for shard in shards.values()]
    if any(parts):
        shown[safetensors.TORCHAO] = {key: value for part in parts for key, value in part.items()}
    return StateDict(name, folder, tree, unsafe_globals=tuple(unsafe), metadata=shown)
