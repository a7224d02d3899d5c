"""Tensors that a class of transformers computes itself, and so need not be in its files.

Some classes declare names that they do not save (Marian's sinusoidal positions), or that older files lack (BART's bias
of zeros). What the class's own initialiser makes of these is used where it is no matter of chance: the same, twice,
from different seeds and over different memory.

Source: transformers/modeling_utils.py, `_keys_to_ignore_on_save` and `_keys_to_ignore_on_load_missing`.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from score.formats.base import TensorRef, computed
from score.formats.dtypes import name_of


def left_out(model: Any, state: Mapping[str, torch.Tensor], weights: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """By name, each tensor of `state` that is not among `weights`, that `model` (of transformers) declares as one that
    a file may lack, and that its initialiser computes; in the weights' dtype, where they have one."""
    declared = (*(model._keys_to_ignore_on_save or ()), *(model._keys_to_ignore_on_load_missing or ()))
    dtypes = {ref.dtype for ref in weights.values() if ref.is_floating_point}
    found = {}
    for name in sorted(state.keys() - weights.keys()):
        if not any(re.search(pattern, name) for pattern in declared):
            continue
        if any(known.endswith(f".{name}") for known in weights):
            continue  # it is there, behind a prefix
        made, again = (_initialised(model, name, seed) for seed in (0, 1))
        if made is not None and again is not None and torch.equal(made, again):
            value = made.to(next(iter(dtypes))) if made.is_floating_point() and len(dtypes) == 1 else made
            found[name] = computed(name_of(value.dtype), tuple(value.shape), _holding(value))
    return found


def _holding(value: torch.Tensor) -> Any:
    return lambda: value


def _initialised(model: nn.Module, name: str, seed: int) -> torch.Tensor | None:
    """What a class's initialiser puts into one tensor, whose memory holds `seed` before; None where it raises."""
    owner_name, _, attribute = name.rpartition(".")
    owner = copy.copy(model.get_submodule(owner_name))  # its children are not touched
    for kind in ("_parameters", "_buffers"):
        held = getattr(owner, kind)
        made = {key: None if value is None else torch.full(value.shape, seed, dtype=value.dtype)
                for key, value in held.items()}  # fmt: skip
        owner.__dict__[kind] = {
            key: value if value is None or kind == "_buffers" else nn.Parameter(value, requires_grad=False)
            for key, value in made.items()
        }
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            _nearest(model, owner_name)._init_weights(owner)
    except Exception:  # noqa: BLE001  # an initialiser that needs more than the tensor; then the file has to hold it
        return None
    found: torch.Tensor = getattr(owner, attribute).detach()
    return found


def _nearest(model: nn.Module, owner: str) -> Any:
    """The innermost model of transformers that a submodule is part of: its initialiser counts."""
    parts = owner.split(".") if owner else []
    for length in range(len(parts), -1, -1):
        found = model.get_submodule(".".join(parts[:length]))
        if hasattr(found, "_init_weights"):
            return found
    return model
