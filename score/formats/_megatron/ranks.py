"""The tensors of Megatron's ranks, put together as one model's under Megatron's own names.

Tensor parallelism cuts a linear layer by its rows or by its columns, and words by their numbers; pipeline parallelism
gives each rank some of the layers, which it counts from 0. Sources: Shoeybi et al. 2019, arXiv:1909.08053; Narayanan
et al. 2021, arXiv:2104.04473; the axes in `sharded_state_dict` of megatron/core/tensor_parallel/layers.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from score.errors import MalformedFile
from score.formats._pickle import pieces
from score.formats._pickle.inert import settled
from score.formats._pickle.read import plain
from score.formats.base import OpaqueObject, TensorRef, computed

MAX_DEPTH = 12
_LAYER = re.compile(r"(.*\blayers\.)(\d{1,5})(\..*)\Z")
_ATTENTION = r"(self_attention|attention|inter_attention|cross_attention)"
_ROWS = re.compile(  # cut along the first dimension
    r"(^|\.)(word_embeddings|word_embeddings_for_head|output_layer)\.weight$|^lm_head\.bias$|"
    r"\.(query_key_value|key_value|query|linear_qkv|linear_q|linear_kv|dense_h_to_4h|linear_fc1)\.(weight|bias)$"
)
_COLUMNS = re.compile(rf"\.({_ATTENTION}\.(dense|linear_proj)|mlp\.(dense_4h_to_h|linear_fc2))\.weight$")
_WHOLE = re.compile(  # each rank has all of it
    rf"norm[^.]*\.(weight|bias)$|\.layer_norm_(weight|bias)$|(^|\.)(position|tokentype)_embeddings\.weight$|"
    rf"\.({_ATTENTION}\.(dense|linear_proj)|mlp\.(dense_4h_to_h|linear_fc2))\.bias$|\.router\.|"
    r"(^|\.)(pooler|binary_head)\.|^lm_head\.dense\."
)
_UP, _DOWN = ("linear_fc1", "dense_h_to_4h"), ("linear_fc2", "dense_4h_to_h")
_QKV = re.compile(r"\.(query_key_value|key_value)\.(weight|bias)$")


def arguments(tree: Any) -> dict[str, Any]:
    """What the training was started with; empty where the file does not say."""
    said = tree.get("args") if isinstance(tree, dict) else None
    found = said.attributes() if isinstance(said, OpaqueObject) else said if isinstance(said, dict) else {}
    return {str(key): value for key, value in found.items()}


def version(tree: Any) -> float:
    """Of the checkpoint, which says in what order rows lie; the newest where the file does not say."""
    found = tree.get("checkpoint_version") if isinstance(tree, dict) else None
    return float(found) if isinstance(found, (int, float)) else 3.0


def shown(args: Mapping[str, Any], version: float) -> dict[str, Any]:
    """The arguments for people."""
    found = {str(key): value for key, value in (plain(args) or {}).items() if value is not None}
    return {"checkpoint_version": version, **found}


def flattened(held: Any, prefix: str = "", depth: int = MAX_DEPTH) -> Iterator[tuple[str, TensorRef]]:
    """Mappings in mappings as one, with dotted names."""
    for key, value in held.items() if isinstance(held, dict) and depth else ():
        value = settled(value)
        if isinstance(value, TensorRef):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.", depth - 1)


def whole_layers(chunks: Sequence[Mapping[str, TensorRef]]) -> dict[str, TensorRef]:
    """The chunks of a pipeline, in its order, with their layers counted on."""
    found: dict[str, TensorRef] = {}
    before: dict[str, int] = {}
    for chunk in chunks:
        counted: dict[str, int] = {}
        for name, ref in chunk.items():
            layer = _LAYER.match(name)
            if layer:
                stack, at, rest = layer[1], int(layer[2]), layer[3]
                counted[stack] = max(counted.get(stack, 0), at + 1)
                name = f"{stack}{before.get(stack, 0) + at}{rest}"
            found.setdefault(name, ref)  # a copy of the words' embedding is with the last layers too
        for stack, count in counted.items():
            before[stack] = before.get(stack, 0) + count
    return found


def whole_tensors(ranks: Sequence[Mapping[str, TensorRef]], version: float, folder: str) -> dict[str, TensorRef]:
    """The tensors of all tensor-parallel ranks as one model's. `version` is the checkpoint's, which says how the rows
    of queries, keys and values lie. Raises `MalformedFile`."""
    first = ranks[0]
    if any(rank.keys() != first.keys() for rank in ranks):
        raise MalformedFile(f"{folder}: the ranks hold tensors of different names")
    return {
        name: _whole(name, [rank[name] for rank in ranks], _sections(name, first, version), f"{folder}: {name}")
        for name in first
    }


def _whole(name: str, parts: list[TensorRef], sections: int, what: str) -> TensorRef:
    if len(parts) == 1:
        return parts[0]
    if _ROWS.search(name):
        return pieces.concatenated(parts, 0, what, sections)
    if _COLUMNS.search(name):
        return pieces.concatenated(parts, 1, what)
    if any(part.shape != parts[0].shape for part in parts):
        raise MalformedFile(f"{what} has other shapes in the files of other ranks, and how it is cut is not known")
    return parts[0] if _WHOLE.search(name) else _equal(parts, what)


def _equal(parts: list[TensorRef], what: str) -> TensorRef:
    """A tensor whose name says nothing: not cut, if all ranks have the same."""

    def load() -> torch.Tensor:
        found = parts[0].load()
        if not all(torch.equal(found, part.load()) for part in parts[1:]):
            raise MalformedFile(f"{what} differs from rank to rank, and how it is cut is not known")
        return found

    return computed(parts[0].dtype_name, parts[0].shape, load)


def _sections(name: str, tensors: Mapping[str, TensorRef], version: float) -> int:
    """How many things a rank's rows are parts of: gate and values of a gated layer, told by its sizes; queries, keys
    and values, which the first version kept apart."""
    for up, down in zip(_UP, _DOWN, strict=True):
        if f".{up}." in name:
            layer = name.rpartition(f".{up}.")[0]
            rows, columns = tensors.get(f"{layer}.{up}.weight"), tensors.get(f"{layer}.{down}.weight")
            known = rows is not None and columns is not None and rows.shape and len(columns.shape) == 2
            return 2 if known and rows.shape[0] == 2 * columns.shape[1] else 1  # type: ignore[union-attr]
    if version == 0 and (match := _QKV.search(name)):
        return 3 if match[1] == "query_key_value" else 2
    return 1
