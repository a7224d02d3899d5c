"""Tensors that are cut among the ranks of a training: what one rank's pickle holds of each, and where it belongs.

DTensor says how it is cut, and a rank's place follows from its number; ShardedTensor says of each shard where it is.
Sources: torch/distributed/tensor/_utils.py, torch/distributed/_shard/sharded_tensor/metadata.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from score.errors import MalformedFile
from score.formats import dtypes
from score.formats.base import OpaqueObject, TensorRef, computed

_DTENSOR = ("torch.distributed.tensor.DTensor", "torch.distributed._tensor.api.DTensor")
_SHARDED = "torch.distributed._shard.sharded_tensor.api.ShardedTensor"
_PLACEMENTS = ("torch.distributed.tensor.placement_types.", "torch.distributed._tensor.placement_types.")
MOST_RANKS = 1 << 16
CLASSES = frozenset((*_DTENSOR, _SHARDED))


@dataclass(frozen=True)
class Cut:
    """A tensor of `shape`, and the pieces of it that are here: where each begins, and its elements."""

    shape: tuple[int, ...]
    dtype_name: str
    pieces: tuple[tuple[tuple[int, ...], TensorRef], ...]


def is_cut(value: Any) -> bool:
    return isinstance(value, OpaqueObject) and value.path in CLASSES


def cut(value: OpaqueObject, rank: int | None) -> Cut:
    """What the pickle of a rank holds of a tensor; `rank` is None where nothing says whose pickle it is. Raises
    `MalformedFile`."""
    dtype, shape = value.args[0] if value.args else None, sizes(value.args[1] if len(value.args) > 1 else None)
    if not isinstance(dtype, torch.dtype):
        raise MalformedFile("a distributed tensor without its dtype")
    pieces = _shards(value) if value.path == _SHARDED else (_local(value, shape, rank),)
    for start, ref in pieces:
        if len(start) != len(shape) or len(ref.shape) != len(shape) or ref.dtype_name != dtypes.name_of(dtype):
            raise MalformedFile("a piece of a distributed tensor has other dimensions than the whole")
        if any(at + size > whole for at, size, whole in zip(start, ref.shape, shape, strict=True) if size):
            raise MalformedFile("a piece of a distributed tensor reaches past the whole")
    return Cut(shape, dtypes.name_of(dtype), pieces)


def joined(cuts: list[Cut]) -> TensorRef | None:
    """The whole tensor; None where its pieces are not all here. One piece that is the whole stays where it lies."""
    shape, dtype = cuts[0].shape, cuts[0].dtype_name
    if any(each.shape != shape or each.dtype_name != dtype for each in cuts):
        raise MalformedFile("ranks differ in the shape of the same tensor")
    pieces = {start: ref for each in cuts for start, ref in each.pieces if ref.numel or not math.prod(shape)}
    if sum(ref.numel for ref in pieces.values()) != math.prod(shape) or not pieces:
        return None
    if len(pieces) == 1:
        return next(iter(pieces.values()))

    def load() -> torch.Tensor:
        whole = torch.empty(shape, dtype=dtypes.of(dtype))
        for start, ref in pieces.items():
            whole[tuple(slice(at, at + size) for at, size in zip(start, ref.shape, strict=True))] = ref.load()
        return whole

    return computed(dtype, shape, load)


def concatenated(parts: Sequence[TensorRef], dimension: int, what: str, sections: int = 1) -> TensorRef:
    """What ranks hold of a tensor of equal parts, one after the other along a dimension; with several `sections`, each
    rank has a part of each of them. Raises `MalformedFile`."""
    first = parts[0]
    alike = {(part.shape, part.dtype_name) for part in parts}
    if len(alike) > 1 or len(first.shape) <= dimension:
        raise MalformedFile(f"{what} has other shapes in the files of other ranks")
    if first.shape[dimension] % sections:
        raise MalformedFile(f"{what} has the shape {list(first.shape)}, which does not hold {sections} equal sections")
    if len(parts) == 1:
        return first
    shape = list(first.shape)
    shape[dimension] *= len(parts)

    def load() -> torch.Tensor:
        pieces = [part.load().chunk(sections, dimension) for part in parts]
        return torch.cat([piece for section in zip(*pieces, strict=True) for piece in section], dimension)

    return computed(first.dtype_name, tuple(shape), load)


def sizes(value: Any) -> tuple[int, ...]:
    """A tensor's shape, as a trainer says it. Raises `MalformedFile`."""
    if isinstance(value, (tuple, list)) and all(isinstance(each, int) and 0 <= each < 1 << 40 for each in value):
        return tuple(value)
    raise MalformedFile("a distributed tensor's shape is none")


def _shards(value: OpaqueObject) -> tuple[tuple[tuple[int, ...], TensorRef], ...]:
    held = value.state[0] if isinstance(value.state, tuple) and value.state else None
    found = []
    for shard in held if isinstance(held, list) else ():
        metadata = shard.attribute("metadata") if isinstance(shard, OpaqueObject) else None
        tensor = shard.attribute("tensor") if isinstance(shard, OpaqueObject) else None
        start = sizes(metadata.attribute("shard_offsets") if isinstance(metadata, OpaqueObject) else None)
        if not isinstance(tensor, TensorRef):
            raise MalformedFile("a shard of a tensor without its elements")
        found.append((start, tensor))
    return tuple(found)


def _local(value: OpaqueObject, shape: tuple[int, ...], rank: int | None) -> tuple[tuple[int, ...], TensorRef]:
    """Where a rank's part of a DTensor begins, each dimension of the mesh cutting what those before it left."""
    local, spec = value.attribute("_local_tensor"), value.attribute("_spec")
    if not isinstance(local, TensorRef) or not isinstance(spec, OpaqueObject):
        raise MalformedFile("a DTensor without its local part")
    placements = spec.attribute("placements")
    kinds = [_placement(each) for each in (placements if isinstance(placements, (tuple, list)) else ())]
    mesh, ranks = _mesh(spec.attribute("mesh"))
    if len(kinds) != len(mesh):
        raise MalformedFile("a DTensor of more placements than its mesh has dimensions")
    start, size = [0] * len(shape), list(shape)
    if all(kind is None or count == 1 for kind, count in zip(kinds, mesh, strict=True)):
        return tuple(start), local
    order = [] if rank is None else [int(each) for each in ranks.load().flatten().tolist()]
    if rank is None or rank not in order:
        raise MalformedFile(f"a DTensor that is cut among {math.prod(mesh)} ranks, and nothing says whose part this is")
    at = order.index(rank)
    places = [at // math.prod(mesh[axis + 1 :]) % count for axis, count in enumerate(mesh)]
    for dim, count, place in zip(kinds, mesh, places, strict=True):
        if dim is None:
            continue
        if not 0 <= dim < len(shape):
            raise MalformedFile("a DTensor that is cut along a dimension that it does not have")
        each = -(-size[dim] // count)
        begun = min(each * place, size[dim])
        start[dim], size[dim] = start[dim] + begun, min(each, size[dim] - begun)
    if tuple(size) != local.shape:
        raise MalformedFile(f"rank {rank}'s part of a DTensor has the shape {list(local.shape)} instead of {size}")
    return tuple(start), local


def _placement(value: Any) -> int | None:
    """The dimension that is cut; None where each rank has all."""
    path = value.path if isinstance(value, OpaqueObject) else ""
    kind = next((path.removeprefix(each) for each in _PLACEMENTS if path.startswith(each)), path)
    if kind == "Replicate":
        return None
    dim = value.attribute("dim") if kind == "Shard" else None
    if isinstance(dim, int):
        return dim
    raise MalformedFile(f"a DTensor that is placed as {kind or type(value).__name__}, which is not put together here")


def _mesh(value: Any) -> tuple[list[int], TensorRef]:
    """The shape of a mesh of ranks, and the ranks in its order."""
    if not isinstance(value, OpaqueObject):
        raise MalformedFile("a DTensor without its mesh")
    layout, ranks = value.attribute("_layout"), value.attribute("_rank_map")
    if isinstance(layout, OpaqueObject):
        axes = layout.attribute("axes")
        shape = [math.prod(sizes(each.attribute("shape"))) for each in axes or () if isinstance(each, OpaqueObject)]
    else:  # torch before 2.10
        ranks = value.attribute("mesh") if ranks is None else ranks
        shape = list(ranks.shape) if isinstance(ranks, TensorRef) else []
    if not isinstance(ranks, TensorRef) or not shape or ranks.numel != math.prod(shape) or ranks.numel > MOST_RANKS:
        raise MalformedFile("a mesh of ranks that is not of the shape that it says")
    return shape, ranks
