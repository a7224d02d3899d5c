"""What Megatron's core saves as `torch_dist`: a distributed checkpoint whose layers lie behind each other.

`decoder.layers.mlp.linear_fc2.weight` is that of all layers, one more dimension in front; the arguments and all that is
no tensor are in `common.pt`. Source: megatron/core/dist_checkpointing, and names and shapes in the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from score.errors import MalformedFile
from score.formats import torch_bin_sharded
from score.formats._megatron import models, ranks
from score.formats._pickle.inert import settled
from score.formats.base import Checkpoint, DescribedWeights, StateDict, TensorRef, computed

COMMON = "common.pt"
MOST_LAYERS = 10_000
_STACK = re.compile(r"(.*\b(?:decoder|encoder)\.layers)\.(?!\d)(.+)\Z")
_LAYER = re.compile(r"(.*\b(?:decoder|encoder)\.layers)\.(\d+)\.")
_TRAINING = re.compile(r"(optimizer|chained_\d+|rng_state|opt_param_scheduler)\b")  # what is no weight


@dataclass(frozen=True, eq=False)
class Cut:
    """A tensor of `shape`, and its pieces: where each begins, and its elements."""

    shape: tuple[int, ...]
    pieces: tuple[tuple[tuple[int, ...], TensorRef], ...]


def layers(name: str, cut: Cut) -> Iterator[tuple[str, Cut]]:
    """A weight of all layers as one of each, by its name there; any other as it is. Raises `MalformedFile`."""
    match = _STACK.match(name)
    if match is None or _TRAINING.match(name) or not cut.shape:
        yield name, cut
        return
    if cut.shape[0] > MOST_LAYERS:
        raise MalformedFile(f"{name!r:.100} is of {cut.shape[0]:,} layers")
    held: dict[int, list[tuple[tuple[int, ...], TensorRef]]] = {at: [] for at in range(cut.shape[0])}
    for start, ref in cut.pieces:
        if len(start) != len(cut.shape) or len(ref.shape) != len(cut.shape):
            raise MalformedFile(f"a piece of {name!r:.100} has other dimensions than the whole")
        for at in range(start[0], min(start[0] + ref.shape[0], cut.shape[0])):
            held[at].append((start[1:], _layer(ref, at - start[0])))
    for at, pieces in held.items():
        yield f"{match[1]}.{at}.{match[2]}", Cut(cut.shape[1:], tuple(pieces))


def _layer(ref: TensorRef, at: int) -> TensorRef:
    return computed(ref.dtype_name, ref.shape[1:], partial(_taken, ref, at))


def _taken(ref: TensorRef, at: int) -> torch.Tensor:
    return ref.load()[at]


def opened(name: str, path: Path, tree: Mapping[Any, Any], metadata: Mapping[str, Any], read: str) -> Checkpoint:
    """The checkpoint of a folder that has a `common.pt`, its tensors being in `tree`; served by a class of transformers
    where the arguments say that it is one."""
    beside = torch_bin_sharded.open_shard(path / COMMON, read)
    args, version = ranks.arguments(beside.tree), ranks.version(beside.tree)
    held = {str(key): settled(value) for key, value in tree.items()}
    weights = {key: value for key, value in held.items() if isinstance(value, TensorRef) and not _TRAINING.match(key)}
    shown = {**metadata, **ranks.shown(args, version)}
    if (known := models.of(args, weights, version)) is not None:
        return DescribedWeights(name, path, known.tensors, beside.unsafe_globals, shown, model=known.factory)
    others = {key: value for key, value in held.items() if key not in weights}
    found = {"model": dict(sorted(weights.items(), key=_in_order)), "optimizer": others}
    return StateDict(name, path, found, beside.unsafe_globals, shown)


def _in_order(named: tuple[str, TensorRef]) -> int:
    """The number of a layer, so that a layer's weights follow each other; what is in none comes first."""
    match = _LAYER.match(named[0])
    return int(match[2]) if match else -1
