"""FSDP's flat parameters: all weights of a wrapped module as one, whose names and shapes are not in the file.

With the class they follow: FSDP joins a unit's parameters in the order in which its modules have them, each flattened,
a shared one once, without those of units inside of it. Source: torch/distributed/fsdp/_flat_param.py.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial

import torch
from torch import nn

from score.errors import NoWeights, WeightsMismatch
from score.formats.base import Checkpoint, TensorRef, computed
from score.weights.align import unwrap
from score.weights.select import Candidate

_NAMES = ("_flat_param", "flat_param")


def among(names: Iterable[str]) -> list[str]:
    """Those of a state's names that are of flat parameters."""
    return [name for name in names if name.rpartition(".")[2] in _NAMES]


def refuse(checkpoint: Checkpoint, weights: Candidate) -> None:
    """Raise `NoWeights` for flat parameters of a class that nothing names."""
    if among(weights.tensors):
        raise NoWeights(
            f"{checkpoint.path.name} holds FSDP's flat parameters: many weights as one, whose names are not in it",
            hint="Name the class that was trained, whose parameters follow each other in the same order: "
            "SCORE_ARCHITECTURE=path/to/file.py:Class. Or save them where they were trained, as FULL_STATE_DICT or "
            "SHARDED_STATE_DICT.",
        )


def apart(module: nn.Module, weights: Candidate) -> Candidate:
    """The weights with each flat parameter as those that it is made of, under the module's own names; the same object
    where there is none. Raises `WeightsMismatch` where they are not as many numbers as the module's."""
    flat = among(weights.tensors)
    if not flat:
        return weights
    units = _units(module, {name: unwrap(name) for name in weights.tensors}, flat)
    found = {name: ref for name, ref in weights.tensors.items() if name not in flat}
    for name, (path, owned) in units.items():
        ref = weights.tensors[name]
        wanted = sum(math.prod(shape) for shape in owned.values())
        if len(ref.shape) != 1 or ref.numel != wanted:
            raise WeightsMismatch(
                f"{name} holds {ref.numel:,} numbers of {ref.dtype_name}, and the parameters of "
                f"{path or type(module).__name__} are {wanted:,}",
                hint="Set SCORE_ARCHITECTURE_KWARGS so that they are as many, or SCORE_ARCHITECTURE to the class that "
                "was trained.",
            )
        found |= _cut(ref, owned)
    return replace(weights, tensors=found)


def _units(
    module: nn.Module, bare: Mapping[str, str], flat: list[str]
) -> dict[str, tuple[str, dict[str, tuple[int, ...]]]]:
    """By each flat parameter's name, the wrapped module's path and its parameters' shapes, in order. What all names
    begin with before the module's own is left out."""
    modules = dict(module.named_modules())
    paths = {name: bare[name].rpartition(".")[0] for name in flat}
    before = ""
    while not all(path.removeprefix(before).strip(".") in modules for path in paths.values()):
        tops = {name.removeprefix(before).partition(".")[0] for name in bare.values()}
        if len(tops) != 1 or (top := tops.pop()) in _NAMES:
            lacking = next(path for path in paths.values() if path.removeprefix(before).strip(".") not in modules)
            raise WeightsMismatch(f"{type(module).__name__} has no module {lacking}, which FSDP wrapped")
        before += f"{top}."
    units = {name: path.removeprefix(before).strip(".") for name, path in paths.items()}
    owned: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in flat}
    deepest = sorted(units.items(), key=lambda unit: -unit[1].count(".") - bool(unit[1]))
    for name, parameter in module.named_parameters():
        unit = next((each for each, path in deepest if not path or name.startswith(f"{path}.")), None)
        if unit is not None:
            owned[unit][name] = tuple(parameter.shape)
    return {name: (units[name], owned[name]) for name in flat}


def _cut(ref: TensorRef, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorRef]:
    whole, start, found = cache(ref.load), 0, {}  # brought in once: its parts are views of it
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        found[name] = computed(ref.dtype_name, shape, partial(_part, whole, start, stop, shape))
        start = stop
    return found


def _part(whole: Callable[[], torch.Tensor], start: int, stop: int, shape: tuple[int, ...]) -> torch.Tensor:
    return whole()[start:stop].view(shape)
