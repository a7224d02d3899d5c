"""What a checkpoint holds, and which part of it is the weights.

A candidate is any mapping of names to tensors, at any depth and under any name, and any pickled module, whose tensors
are gathered as `nn.Module.state_dict` would. Optimizer state is never one. The choice is never a guess: what remains
ambiguous is an error that lists the candidates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from score.errors import MalformedFile, NoWeights, SeveralWeights, WeightsNotFound
from score.formats._pickle import pieces, torch_ao
from score.formats._pickle.inert import settled
from score.formats.base import Checkpoint, GlobalName, OpaqueObject, Program, TensorRef

MAX_DEPTH = 40
MAX_TENSORS = 1_000_000
MOST_MADE_WITH = 16  # arguments of a class that wraps tensors
MAX_NAME, MAX_NAME_PARTS = 2_000, 200  # characters of a tensor's name, and what dots part in it

_EMA = re.compile(r"(^|[_.])(ema|ema_?model|averaged?|shadow|polyak|swa)(_|$|\.)|_ema$", re.I)
_NEVER = re.compile(
    r"^(optim\w*|opt|opts|\w+_optimizers?|\w*schedulers?|callbacks|\w*rng\w*|scaler|grad_scaler|\w*masks?)$", re.I
)

# Objects that hold tensors which are no weights: graphs, tables, data sets, models of other libraries.
_DATA = (
    "sklearn.",
    "xgboost.",
    "lightgbm.",
    "catboost.",
    "pandas.",
    "torch_geometric.data.",
    "torch_geometric.datasets.",
    "dgl.",
    "torch.utils.data.",
    "torchtext.",
    "torch_sparse.",
)
_NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mapping in a checkpoint that could be the weights.

    `path` is dotted (empty for the root), `kind` is `weights` or `ema`. `module` is there where the mapping was
    gathered from a pickled module, and `metadata` where the file has the versions that `nn.Module.state_dict` adds.
    """

    path: str
    tensors: Mapping[str, TensorRef]
    kind: str
    module: OpaqueObject | None = None
    metadata: Any = None

    def __post_init__(self) -> None:
        for name in self.tensors:
            if len(name) > MAX_NAME or name.count(".") >= MAX_NAME_PARTS:
                raise MalformedFile(
                    f"a tensor's name of {len(name):,} characters in {name.count('.') + 1:,} parts: {name[:60]!r} ..."
                )

    @property
    def class_path(self) -> str:
        """The pickled module's class; empty for a bare mapping."""
        return self.module.path if self.module else ""

    @property
    def parameters(self) -> int:
        return sum(tensor.numel for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors there are of each dtype."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.dtype_name] = counts.get(tensor.dtype_name, 0) + 1
        return counts

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def candidates(checkpoint: Checkpoint, *, everything: bool = False) -> list[Candidate]:
    """Every candidate in a checkpoint, in the order of the file. A mapping that is reached twice counts once.

    Where there is none, tensors at the root among other things (a configuration, an epoch) are one. `everything` adds
    the mappings whose name says that they are none, such as `opt` or `masks`.
    """
    skipped = _NOTHING if everything else _NEVER
    found = list(_walk(checkpoint.tree, (), "weights", set(), MAX_DEPTH, skipped))
    if found or not isinstance(checkpoint.tree, dict) or _is_optimizer(checkpoint.tree):
        return found
    if any(_is_tensor_of_its_own(settled(value)) for value in checkpoint.tree.values()):
        return []  # what is left is not the weights
    named = {str(key): settled(value) for key, value in checkpoint.tree.items() if not _NEVER.match(str(key))}
    tensors = {name: value for name, value in named.items() if isinstance(value, TensorRef)}
    floating = [value for value in tensors.values() if value.shape and value.is_floating_point]
    return [Candidate("", tensors, "weights")] if floating else []


def _walk(
    value: Any, path: tuple[str, ...], kind: str, seen: set[int], depth: int, skipped: re.Pattern[str]
) -> Iterator[Candidate]:
    value = settled(value)
    if depth == 0 or id(value) in seen or not isinstance(value, (dict, list, tuple, OpaqueObject)):
        return
    seen.add(id(value))
    if isinstance(value, OpaqueObject) and value.path.startswith(_DATA):
        return
    if isinstance(value, OpaqueObject) and _is_module(value):
        tensors = dict(_module_state(value, "", MAX_DEPTH, _Budget(MAX_TENSORS)))
        if tensors:
            yield Candidate(".".join(path), tensors, kind, module=value)
        return
    if _is_optimizer(value):
        return
    if isinstance(value, dict) and (tensors := _tensors_of(value)):
        yield Candidate(".".join(path), tensors, kind, metadata=getattr(value, "_metadata", None))
    for key, child in _children(value, seen):
        name = str(key)
        if not skipped.match(name):
            yield from _walk(child, (*path, name), "ema" if _EMA.search(name) else kind, seen, depth - 1, skipped)


def _children(value: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """What a container holds by key, attribute or position; what several objects share, such as their state, once."""
    if isinstance(value, OpaqueObject):
        for part in value.containers()[:-1]:  # what it was made with is no part of it
            if part and id(part) not in seen:
                seen.add(id(part))
                yield from _children(part, seen)
    elif isinstance(value, dict):
        yield from value.items()
    else:
        yield from enumerate(value)


def _tensors_of(mapping: Mapping[Any, Any]) -> dict[str, TensorRef]:
    """The mapping's own tensors, if it reads as weights: some tensor has a dimension, and tensors are not strewn among
    other things (a training checkpoint that keeps its loss or RNG state as a tensor is no state_dict)."""
    found = {str(key): settled(value) for key, value in mapping.items() if not str(key).endswith("_extra_state")}
    tensors = {name: value for name, value in found.items() if isinstance(value, TensorRef)}
    containers = sum(isinstance(value, (dict, OpaqueObject)) for value in found.values())
    if containers or not any(tensor.shape for tensor in tensors.values()):
        return {}
    return tensors if 2 * len(tensors) > len(found) else {}


def _is_tensor_of_its_own(value: Any) -> bool:
    """Whether a value is of a class that wraps tensors: a rank's piece, or what it was made with are tensors, or the
    dtype that a tensor's own class is made with."""
    if not isinstance(value, OpaqueObject) or len(value.args) + len(value.kwargs) > MOST_MADE_WITH:
        return False
    made_with = (*value.args, *value.kwargs.values())
    return pieces.is_cut(value) or any(isinstance(settled(each), (TensorRef, torch.dtype)) for each in made_with)


def _is_optimizer(value: Any) -> bool:
    return _has(value, "param_groups") and _has(value, "state")


def _is_module(value: OpaqueObject) -> bool:
    return (_has(value, "_parameters") and _has(value, "_modules")) or torch_ao.convolution(value) is not None


def _has(value: Any, name: str) -> bool:
    parts = [value] if isinstance(value, dict) else value.states() if isinstance(value, OpaqueObject) else []
    return any(name in part for part in parts)


class _Budget:
    """How much may be looked at. A module that is in another twice is there under two names; one that is so at every
    depth, under billions."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise MalformedFile(f"a module of more than {MAX_TENSORS:,} parts, most of them the same")


def _module_state(module: OpaqueObject, prefix: str, depth: int, budget: _Budget) -> Iterator[tuple[str, TensorRef]]:
    """The tensors of a pickled module by name, in the order of `nn.Module.state_dict`: parameters, persistent buffers,
    then submodules."""
    budget.spend()
    if depth == 0:
        return
    transient = module.attribute("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, value in _mapping(module.attribute(group)).items():
            value = settled(value)
            budget.spend()
            if isinstance(value, TensorRef) and not (group == "_buffers" and name in transient):
                yield f"{prefix}{name}", value
    for name, value in torch_ao.tensors(module):
        budget.spend()
        yield f"{prefix}{name}", value
    for name, child in _mapping(module.attribute("_modules")).items():
        if isinstance(child, OpaqueObject):
            yield from _module_state(child, f"{prefix}{name}.", depth - 1, budget)


def _mapping(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, OpaqueObject):
        return value.mapping
    return value if isinstance(value, dict) else {}


def weights_of(checkpoint: Checkpoint, wanted: str | None = None) -> Candidate | None:
    """The weights to serve with: all tensors of a program (None if it has none), else the chosen candidate."""
    if isinstance(checkpoint, Program) and wanted is None:
        tensors = {name: tensor for name, tensor in checkpoint.tree.items() if isinstance(tensor, TensorRef)}
        return Candidate("", tensors, "weights") if tensors else None
    return choose(checkpoint, wanted)


def choose(checkpoint: Checkpoint, wanted: str | None = None) -> Candidate:
    """The weights of a checkpoint.

    `wanted` is the setting `SCORE_WEIGHTS`: a dotted path, `.` for the root, or `ema`. Raises `WeightsNotFound`,
    `NoWeights` or `SeveralWeights`.
    """
    if wanted is not None:
        return _named(checkpoint, candidates(checkpoint, everything=True), wanted)
    found = candidates(checkpoint)
    if not found:
        raise NoWeights(_why_none(checkpoint))
    plain = [candidate for candidate in found if candidate.kind == "weights"]
    left = plain or found
    if len(left) == 1:
        return _whole(checkpoint, left[0])
    raise SeveralWeights(
        f"{checkpoint.path.name} holds {len(left)} mappings that could be the weights",
        detail=table(left),
        choices=[{"weights": candidate.path or "."} for candidate in left],
    )


# What PEFT's methods call the tensors that they add beside a layer's own: LoRA, DoRA, VeRA, IA3, LoHa, LoKr, OFT; and
# those that are put before the model's inputs: prompts.
_ADAPTER = re.compile(r"lora_|vera_lambda|\bia3_|hada_w|lokr_w|\boft_|\bboft_")
_PROMPT = re.compile(r"(^|\.)prompt_embeddings$|(^|\.)prompt_encoder\.[^.]+\.(embedding\.|mlp_head\.)")
_HEAD = 8  # tensors that a classifier has at most


def is_adapter(candidate: Candidate) -> bool:
    """Whether a mapping only adapts another model's weights, whatever else (a classifier's head) is beside: what is
    adapted is not in it."""
    added = [name for name in candidate.tensors if _ADAPTER.search(name)]
    if not added:
        prompts = sum(_PROMPT.search(name) is not None for name in candidate.tensors)
        return prompts > 0 and len(candidate.tensors) - prompts <= _HEAD
    layers = {_ADAPTER.split(name)[0] for name in added}
    bases = ("weight", "base_layer.weight", "linear.weight", "base_layer.linear.weight")
    return not any(f"{layer}{base}" in candidate.tensors for layer in layers for base in bases)


def adapter(checkpoint: Checkpoint) -> Candidate | None:
    """The adapter that a checkpoint holds; None where it holds none."""
    return next((candidate for candidate in candidates(checkpoint) if is_adapter(candidate)), None)


def _whole(checkpoint: Checkpoint, candidate: Candidate) -> Candidate:
    """Refuse what only adapts another model's weights (Hu et al. 2021, and after; as PEFT names its tensors)."""
    if is_adapter(candidate):
        kind, base = checkpoint.metadata.get("adapter", "LoRA"), checkpoint.metadata.get("base_model")
        raise NoWeights(
            f"{checkpoint.path.name} holds an adapter ({kind}) only; "
            + (f"the base model {base!r} that it adapts is not here" if base else "its base model is not here"),
            hint="Put the base model's folder beside the adapter's, which has its adapter_config.json, or name it: "
            "SCORE_BASE. Or merge the two (merge_and_unload of PEFT) and save the result.",
        )
    return candidate


def _named(checkpoint: Checkpoint, found: list[Candidate], wanted: str) -> Candidate:
    if wanted == "ema":
        matching = [candidate for candidate in found if candidate.kind == "ema"]
    else:
        matching = [candidate for candidate in found if candidate.path == wanted.removeprefix(".")]
    if len(matching) == 1:
        return _whole(checkpoint, matching[0])
    kind = SeveralWeights if matching else WeightsNotFound
    raise kind(
        f"SCORE_WEIGHTS={wanted} names {len(matching) or 'no'} mappings in {checkpoint.path.name}",
        detail=table(matching or found) or "there are no weights in it at all",
    )


def table(found: list[Candidate]) -> str:
    """The candidates, one a line: path, tensors, parameters, size."""
    width = max((len(candidate.path or "(root)") for candidate in found), default=0)
    return "\n".join(
        f"{candidate.path or '(root)':<{width}}  {len(candidate.tensors):>6,} tensors  "
        f"{candidate.parameters:>14,} parameters  {candidate.nbytes / 1e6:>10,.1f} MB"
        + ("  (EMA)" if candidate.kind == "ema" else "")
        + (f"  of {candidate.class_path}" if candidate.class_path else "")
        for candidate in found
    )


_TRAINING = frozenset({"epoch", "step", "global_step", "iteration"})
_SCHEDULER = frozenset({"base_lrs", "last_epoch", "_step_count", "_last_lr", "verbose", "best", "num_bad_epochs"})
_RNG = frozenset({"python", "numpy", "cpu", "cuda", "torch", "random", "xla", "npu"})


def _why_none(checkpoint: Checkpoint) -> str:
    """What a file without weights is, for people: each kind of file that is mistaken for one by name."""
    tree, name = settled(checkpoint.tree), checkpoint.path.name
    if isinstance(tree, dict) and any(pieces.is_cut(value) for value in tree.values()):
        return f"{name} holds one rank's pieces of tensors that are cut among several, whose files are not here"
    own = [
        each for each in (tree.values() if isinstance(tree, dict) else [tree]) if _is_tensor_of_its_own(settled(each))
    ]
    if own:
        return f"{name} holds tensors of the class {own[0].path}, which says by itself what its parts mean"
    held = _children(tree, set()) if isinstance(tree, (dict, list, tuple, OpaqueObject)) else ()
    keys = {str(key).lower() for key, _ in held}
    listed = ", ".join(sorted(keys)[:12])
    if isinstance(tree, TensorRef):
        return f"{name} holds a single tensor of shape {list(tree.shape)}, not weights by name"
    if isinstance(tree, GlobalName):
        return f"{name} holds the class {tree.path} itself, an architecture without weights"
    if isinstance(tree, (dict, OpaqueObject)) and _is_optimizer(tree):
        return f"{name} holds an optimizer's state only, not the model's weights"
    if isinstance(tree, OpaqueObject):
        return _what_object(name, tree)
    if not keys:
        return f"{name} holds {type(tree).__name__ if tree not in ({}, [], ()) else 'nothing'}, and no weights"
    if keys & {"base_lrs", "last_epoch"} and len(keys & _SCHEDULER) * 2 >= len(keys):
        return f"{name} holds a scheduler's state only ({listed}), not the model's weights"
    if keys <= _RNG:
        return f"{name} holds the state of random number generators only ({listed}), not the model's weights"
    if all(_NEVER.match(key) or key in _TRAINING for key in keys):
        return f"{name} holds training state only ({listed}), not the model's weights"
    return f"{name}: nothing in it is a mapping of names to tensors. It holds: {listed}"


def _what_object(name: str, tree: OpaqueObject) -> str:
    if _is_module(tree):
        return f"{name} holds a module of class {tree.path} that has no parameters"
    if tree.path.startswith(_DATA):
        return f"{name} holds data (an object of class {tree.path}), not a model's weights"
    if tree.path.endswith((".Namespace", "Arguments", "Args")):
        return f"{name} holds training arguments ({tree.path}) only, not the model's weights"
    return f"{name} holds an object of class {tree.path} that has no weights in it"


def holds_weights(checkpoint: Checkpoint) -> bool:
    """Whether there is anything in a checkpoint that could be served."""
    return isinstance(checkpoint, Program) or bool(candidates(checkpoint))
