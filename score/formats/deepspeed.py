"""`deepspeed`: a folder of DeepSpeed's with ZeRO, of any stage: weights in full precision, from all ranks' partitions.

A rank's `*_optim_states.pt` has its partition of the flattened weights, `*_model_states.pt` their names and shapes.
Stages 1 and 2 cut the whole of a group's weights into as many equal parts as there are ranks; stage 3 cuts each weight.
A weight is put together when it is brought in. Source: the layout that DeepSpeed's zero_to_fp32.py reads.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from score.errors import MalformedFile, NoWeights
from score.formats import torch_bin_sharded
from score.formats._pickle import pieces
from score.formats._pickle.inert import settled
from score.formats._pickle.read import metadata
from score.formats.base import Checkpoint, OpaqueObject, StateDict, TensorRef, computed
from score.formats.probe import Probe

NAME = "deepspeed"
PRIORITY = 0
SERVABLE = True
_OPTIM = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt\Z")
_MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt\Z")


def detect(probe: Probe) -> bool:
    return probe.is_dir and _folder(probe.path) is not None


def _folder(path: Path) -> Path | None:
    """Where the partitions are: in the folder, or in the one below it that its `latest` names."""
    try:
        if any(_OPTIM.match(each.name) for each in path.iterdir()):
            return path
        latest = path / "latest"
        name = _first_bytes(latest).decode(errors="replace").strip()
        below = path / name
        good = bool(name) and Path(name).name == name and below.is_dir() and not below.is_symlink()
        return below if good and any(_OPTIM.match(each.name) for each in below.iterdir()) else None
    except (OSError, ValueError):  # a name that no path can have
        return None


def _first_bytes(path: Path) -> bytes:
    if not path.is_file() or path.is_symlink():
        return b""
    with path.open("rb") as file:
        return file.read(200)


def open(path: Path, read: str) -> Checkpoint:
    """Raises `NoWeights` for weights that are cut among ranks in another way too, `MalformedFile` where a rank's file
    is missing, or the parts do not make up the whole."""
    folder = _folder(path)
    assert folder is not None, "open is called after detect"
    opened = {each: torch_bin_sharded.open_shard(each, read) for each in _files(folder)}
    optims = [_mapping(opened[each].tree, "optimizer_state_dict", each.name) for each in _ranked(folder, _OPTIM)]
    models = [_mapping(opened[each].tree, "", each.name) for each in _ranked(folder, _MODEL)]
    stage = optims[0].get("zero_stage")
    if isinstance(stage, OpaqueObject) and len(stage.args) == 1:  # a member of an enumeration
        (stage,) = stage.args
    if stage not in (1, 2, 3):
        raise MalformedFile(f"{path.name}: ZeRO of stage {stage!r}")
    _require_all(path, stage, optims, models)
    weights = dict(_third_stage(optims, models) if stage == 3 else _first_stages(optims, models))
    first = models[0]
    weights |= dict(_frozen(models, stage == 3))
    own, buffers = _own(first), _names(first.get("buffer_names"))
    weights |= {name: ref for name, ref in own.items() if name in buffers}
    if stage != 3:  # whose own copies are empty
        weights = own | weights
    for name, other in _pairs(first.get("shared_params")):
        if other in weights:
            weights[name] = weights[other]
    unsafe = dict.fromkeys(name for each in opened.values() for name in each.unsafe_globals)
    said = {"zero_stage": stage, "ranks": len(optims), **metadata(_without(first))}
    return StateDict(NAME, path, weights, unsafe_globals=tuple(unsafe), metadata=said)


def _files(folder: Path) -> list[Path]:
    return [*_ranked(folder, _OPTIM), *_ranked(folder, _MODEL)]


def _ranked(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The files of one kind, by rank. Raises `NoWeights` where tensors are cut as well (model parallelism)."""
    found = {}
    for each in folder.iterdir():
        if (match := pattern.match(each.name)) and not each.is_symlink():
            if int(match[2]) != 0:
                raise NoWeights(
                    f"{folder.name} holds parts of several model-parallel ranks, which are cut as their trainer says",
                    hint="Merge them where they were trained (DeepSpeed's universal checkpoint, Megatron's converter).",
                )
            found[int(match[1] or 0)] = each
    if sorted(found) != list(range(len(found))):
        missing = next(at for at in range(len(found) + 1) if at not in found)
        raise MalformedFile(f"{folder.name}: rank {missing} of {max(found) + 1} is missing among the partitions")
    return [found[rank] for rank in sorted(found)]


def _mapping(tree: Any, key: str, name: str) -> Mapping[Any, Any]:
    found = tree.get(key) if key and isinstance(tree, dict) else tree
    if not isinstance(found, dict):
        raise MalformedFile(f"{name} is not what DeepSpeed writes")
    return found


def _require_all(path: Path, stage: int, optims: list[Any], models: list[Any]) -> None:
    said = optims[0].get("partition_count")
    counts = said if isinstance(said, (list, tuple)) else [said]
    count = max((each for each in counts if isinstance(each, int)), default=0)
    if count != len(optims) or (stage == 3 and len(models) != count) or not models:
        raise MalformedFile(
            f"{path.name} holds the partitions of {len(optims)} ranks, and {count} are said to have written them",
            hint="Copy the files of all ranks into the folder.",
        )


def _shapes(model: Mapping[Any, Any], key: str = "param_shapes") -> list[dict[str, tuple[int, ...]]]:
    """Names and shapes, a mapping a group."""
    said = model.get(key)
    groups = said if isinstance(said, list) else [said]
    found = []
    for group in groups:
        if not isinstance(group, dict):
            raise MalformedFile(f"the model's {key} are no names with shapes")
        shapes = {str(name): pieces.sizes(value) for name, value in group.items()}
        found.append(shapes)
    return found


@dataclass(frozen=True)
class _Part:
    """A run of elements of a flat tensor."""

    flat: TensorRef
    start: int
    count: int


def _joined(parts: list[_Part], shape: tuple[int, ...]) -> TensorRef:
    """A weight from its parts, one after the other; a view where there is one."""
    if sum(part.count for part in parts) != math.prod(shape) or any(
        part.start + part.count > part.flat.numel for part in parts
    ):
        raise MalformedFile("the partitions end before the weights that are said to be in them")
    dtype = parts[0].flat.dtype_name if parts else "float32"

    def load() -> torch.Tensor:
        pieces = [part.flat.load().flatten()[part.start : part.start + part.count] for part in parts]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).view(shape)

    return computed(dtype, shape, load)


class _Row:
    """Flat tensors, one after the other."""

    def __init__(self, flats: list[TensorRef]) -> None:
        self.flats = [flat for flat in flats if flat.numel]
        self.ends = list(accumulate(flat.numel for flat in self.flats))

    def cut(self, start: int, count: int) -> list[_Part]:
        """The parts that hold so many elements from `start`."""
        parts, at = [], bisect_right(self.ends, start)
        while count > 0 and at < len(self.flats):
            within = start - (self.ends[at] - self.flats[at].numel)
            taken = min(count, self.flats[at].numel - within)
            parts.append(_Part(self.flats[at], within, taken))
            start, count, at = start + taken, count - taken, at + 1
        return parts


def _flats(optim: Mapping[Any, Any], *keys: str) -> list[TensorRef]:
    said = next((optim[key] for key in keys if key in optim), None)
    found = [settled(each) for each in said] if isinstance(said, (list, tuple)) else []
    if not found or not all(isinstance(each, TensorRef) for each in found):
        raise MalformedFile(f"a rank's {keys[0]} are no tensors")
    return found


def _first_stages(optims: list[Any], models: list[Any]) -> Iterator[tuple[str, TensorRef]]:
    """Each group's partitions, one rank after the other, are its weights, one after the other."""
    ranks = [_flats(optim, "single_partition_of_fp32_groups", "fp32_groups") for optim in optims]
    groups = _shapes(models[0])
    if any(len(rank) != len(groups) for rank in ranks):
        raise MalformedFile("the ranks have other groups of weights than the model")
    for at, shapes in enumerate(groups):
        row, start = _Row([rank[at] for rank in ranks]), 0
        for name, shape in shapes.items():
            yield name, _joined(row.cut(start, math.prod(shape)), shape)
            start += math.prod(shape)


def _third_stage(optims: list[Any], models: list[Any]) -> Iterator[tuple[str, TensorRef]]:
    """Each weight is in as many equal parts as there are ranks, the last one filled up."""
    ranks = [_Row(_flats(optim, "fp32_flat_groups", "fp32_groups")) for optim in optims]
    start = 0
    for shapes in _shapes(models[0]):
        for name, shape in shapes.items():
            count = math.prod(shape)
            each = -(-count // len(ranks))
            parts, left = [], count
            for row in ranks:
                parts += row.cut(start, min(each, left))
                left -= min(each, left)
            yield name, _joined(parts, shape)
            start += each


def _frozen(models: list[Any], cut: bool) -> Iterator[tuple[str, TensorRef]]:
    """Weights that were not trained: in the model's own files, in stage 3 in as many parts as there are ranks."""
    if not models[0].get("frozen_param_shapes"):
        return
    (shapes,) = _shapes(models[0], "frozen_param_shapes")
    for name, shape in shapes.items():
        held = [model.get("frozen_param_fragments") for model in (models if cut else models[:1])]
        fragments: list[Any] = [settled(each.get(name)) if isinstance(each, dict) else None for each in held]
        if not all(isinstance(piece, TensorRef) for piece in fragments):
            raise MalformedFile(f"a part of the frozen weight {name!r} is missing")
        parts, left = [], math.prod(shape)
        for piece in fragments:
            parts.append(_Part(piece, 0, min(piece.numel, left)))
            left -= min(piece.numel, left)
        yield name, _joined(parts, shape)


def _own(model: Mapping[Any, Any]) -> dict[str, TensorRef]:
    """The model's own copies: buffers, and what is in no partition, such as a frozen weight of stage 1."""
    module = model.get("module")
    held = {str(key): settled(value) for key, value in module.items()} if isinstance(module, dict) else {}
    return {name: ref for name, ref in held.items() if isinstance(ref, TensorRef)}


def _names(said: Any) -> set[str]:
    return {str(each) for each in said} if isinstance(said, (list, tuple, set)) else set()


def _pairs(said: Any) -> list[tuple[str, str]]:
    """Which weights are others by another name: a mapping, or pairs."""
    pairs = said.items() if isinstance(said, dict) else said if isinstance(said, (list, tuple)) else ()
    return [(str(each[0]), str(each[1])) for each in pairs if isinstance(each, (list, tuple)) and len(each) == 2]


def _without(model: Mapping[Any, Any]) -> dict[Any, Any]:
    large = ("module", "param_shapes", "frozen_param_shapes", "frozen_param_fragments", "buffer_names", "optimizer")
    return {key: value for key, value in model.items() if key not in large}
