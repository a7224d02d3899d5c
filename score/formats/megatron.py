"""`megatron`: a folder of Megatron-LM's with the files of tensor- and pipeline-parallel ranks, or of a single one:
`iter_0000100/mp_rank_00/model_optim_rng.pt`; NeMo's `mp_rank_00/model_weights.ckpt` and `tp_rank_00_pp_rank_000` too.

The ranks' tensors are put together, each when it is brought in, without a process group. Where the arguments in the
file say that the model is one that transformers has, it is served by that class.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score.errors import MalformedFile, NoWeights
from score.formats import torch_bin_sharded
from score.formats._megatron import models, ranks
from score.formats.base import Checkpoint, DescribedWeights, StateDict, TensorRef
from score.formats.probe import Probe

NAME = "megatron"
PRIORITY = 0
SERVABLE = True
_LATEST = "latest_checkpointed_iteration.txt"
_FILES = ("model_optim_rng.pt", "model_rng.pt", "model_weights.ckpt")
_RANK = re.compile(r"mp_rank_(\d{2,3})((?:_\d{3}){0,2})\Z|tp_rank_(\d{2,3})_pp_rank_(\d{3})\Z")
_CHUNK = re.compile(r"model(\d{0,3})\Z")
MOST_RANKS = 4096


@dataclass(frozen=True)
class _Rank:
    """A rank's file, and its place: among the tensor-parallel ranks, and the numbers behind that."""

    file: Path
    tensor: int
    others: tuple[int, ...]


def detect(probe: Probe) -> bool:
    return probe.is_dir and _folder(probe.path) is not None


def _folder(path: Path) -> Path | None:
    """Where the ranks' folders are: in the folder, or in the one below it that was written last."""
    try:
        if _ranks(path):
            return path
        latest = path / _LATEST
        if not latest.is_file() or latest.is_symlink() or latest.stat().st_size > 40:
            return None
        said = latest.read_bytes().decode(errors="replace").strip()
        name = f"iter_{int(said):07d}" if said.isascii() and said.isdigit() else "release"
        below = path / name
        return below if below.is_dir() and not below.is_symlink() and _ranks(below) else None
    except OSError:
        return None


def _ranks(folder: Path) -> list[_Rank]:
    found: list[_Rank] = []
    for each in sorted(folder.iterdir()):
        if (match := _RANK.match(each.name)) is None or each.is_symlink() or len(found) == MOST_RANKS:
            continue
        file = next((each / name for name in _FILES if (each / name).is_file()), None)
        if file is not None and not file.is_symlink():
            others = match[2].split("_")[1:] if match[3] is None else [match[4]]
            found.append(_Rank(file, int(match[1] or match[3] or 0), tuple(map(int, others))))
    return found


def open(path: Path, read: str) -> Checkpoint:
    """Raises `MalformedFile` where a rank's file is missing or ranks do not fit together, `NoWeights` for experts that
    are spread among ranks."""
    folder = _folder(path)
    assert folder is not None, "open is called after detect"
    held = _ranks(folder)
    opened = {rank: torch_bin_sharded.open_shard(rank.file, read) for rank in held}
    trees: dict[_Rank, Any] = {rank: each.tree for rank, each in opened.items()}
    args, version = ranks.arguments(trees[held[0]]), ranks.version(trees[held[0]])
    grid = _grid(path.name, held, args)
    stages = [[_chunks(trees[rank], rank.file) for rank in stage] for stage in grid]
    counts = {len(chunks) for stage in stages for chunks in stage}
    if len(counts) != 1:
        raise MalformedFile(f"{path.name}: the ranks hold different numbers of chunks of the model")
    chunks = [
        ranks.whole_tensors([chunks[at] for chunks in stage], version, path.name)
        for at in range(counts.pop())
        for stage in stages
    ]
    tensors = ranks.whole_layers(chunks)
    unsafe = tuple(dict.fromkeys(name for each in opened.values() for name in each.unsafe_globals))
    shown = {"tensor_parallel": len(grid[0]), "pipeline_parallel": len(grid), **ranks.shown(args, version)}
    if (known := models.of(args, tensors, version)) is not None:
        return DescribedWeights(NAME, path, known.tensors, unsafe, shown, model=known.factory)
    return StateDict(NAME, path, tensors, unsafe_globals=unsafe, metadata=shown)


def _grid(name: str, held: list[_Rank], args: Mapping[str, Any]) -> list[list[_Rank]]:
    """The ranks by stage of the pipeline, and by their place among the tensor-parallel ones."""
    experts = args.get("expert_model_parallel_size", 1)
    if any(len(rank.others) > 1 for rank in held) or (isinstance(experts, int) and experts > 1):
        raise NoWeights(
            f"{name} holds the experts of a mixture, spread among ranks, which are not put together here",
            hint="Save it as torch_dist where it was trained (--ckpt-format torch_dist), which is read.",
        )
    stages: dict[int, dict[int, _Rank]] = {}
    for rank in held:
        stages.setdefault(rank.others[0] if rank.others else 0, {})[rank.tensor] = rank
    counts = (len(stages), max(len(stage) for stage in stages.values()))
    said = tuple(args.get(f"{kind}_model_parallel_size") for kind in ("pipeline", "tensor"))
    wanted = tuple(
        max(count, each) if isinstance(each, int) and 0 < each <= MOST_RANKS else count
        for count, each in zip(counts, said, strict=True)
    )
    for stage in range(wanted[0]):
        for tensor in range(wanted[1]):
            if tensor not in stages.get(stage, {}):
                raise MalformedFile(
                    f"{name} is of {wanted[1]} tensor-parallel by {wanted[0]} pipeline-parallel ranks, and the file of "
                    f"rank {tensor} of stage {stage} is missing",
                    hint="Copy the folders of all ranks.",
                )
    if len(held) != wanted[0] * wanted[1]:
        raise MalformedFile(f"{name} holds {len(held)} ranks, of {wanted[1]} by {wanted[0]}")
    return [[stages[stage][tensor] for tensor in range(wanted[1])] for stage in range(wanted[0])]


def _chunks(tree: Any, file: Path) -> list[dict[str, TensorRef]]:
    """The parts of the model that a rank has, in the order in which they are run: several of an interleaved
    pipeline."""
    held = tree if isinstance(tree, dict) else {}
    names = sorted((key for key in held if isinstance(key, str) and _CHUNK.match(key)), key=lambda key: (len(key), key))
    if any(len(key) > len("model") for key in names):  # a rank of several has `model0`, `model1`, and no `model`
        names = [key for key in names if key != "model"]
    found = [dict(ranks.flattened(held[key])) for key in names]
    if not found:  # NeMo's, a state_dict under names of its own
        state = held["state_dict"] if isinstance(held.get("state_dict"), dict) else held
        found = [{name.removeprefix("model."): ref for name, ref in ranks.flattened(state, depth=1)}]
    if not all(found):
        raise MalformedFile(f"{file.parent.name}/{file.name} holds no model of Megatron's")
    return found
