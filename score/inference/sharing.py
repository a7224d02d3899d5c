"""Parameters that several models have in common: those of a base model that each has its own adapter for.

What no adapter changes is brought to a device once, for as long as any model uses it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from score.formats.base import Checkpoint, TensorRef
from score.weights.align import Alignment
from score.weights.select import Candidate

Key = tuple[str, int, str, str]
"""A base model's path, when it was last written to, a tensor's name in it, and a device."""
_placed: weakref.WeakValueDictionary[Key, nn.Parameter] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Base:
    """A base model's tensors as they lie in its files, by their identity."""

    path: str = ""
    written: int = 0
    names: Mapping[int, str] = field(default_factory=dict)
    tensors: tuple[TensorRef, ...] = ()  # which keep their identities for as long as this lives

    @classmethod
    def of(cls, checkpoint: Checkpoint, weights: Candidate | None) -> Base:
        """Nothing of an archive, whose path is made up for as long as it is open."""
        if checkpoint.packed is not None:
            return NOTHING
        held = weights.tensors if weights is not None else {}
        written = max((each.stat().st_mtime_ns for each in (checkpoint.path, *_files(checkpoint))), default=0)
        names = {id(ref): name for name, ref in held.items()}
        return cls(str(checkpoint.path), written, names, tuple(held.values()))

    def shared(self, module: nn.Module, weights: Candidate, alignment: Alignment, device: torch.device) -> Shared:
        """Which of a module's parameters are the base model's own, by their names."""
        if not self.names:
            return Shared(module, {})
        sources = {name: weights.tensors[source] for name, source in alignment.mapping.items()}
        known = {name: self.names.get(id(ref)) for name, ref in sources.items()}
        parameters = dict(module.named_parameters(remove_duplicate=False))
        keys = {
            name: (self.path, self.written, found, str(device))
            for name, found in known.items()
            if found is not None and name in parameters
        }
        return Shared(module, keys)


NOTHING = Base()


@dataclass(frozen=True)
class Shared:
    """A module's parameters that others may have too, each with its key."""

    module: nn.Module
    keys: Mapping[str, Key]

    def take(self) -> None:
        """Put in those that are on the device already; what is tied stays so."""
        found = {id(self.module.get_parameter(name)): _placed.get(key) for name, key in self.keys.items()}
        for part in self.module.modules():
            for name, parameter in part._parameters.items():
                known = found.get(id(parameter))
                if parameter is not None and known is not None and known.shape == parameter.shape:
                    part._parameters[name] = known

    def give(self) -> None:
        """Let others have those that are on the device now."""
        for name, key in self.keys.items():
            _placed[key] = self.module.get_parameter(name)


def repeated(modules: Iterable[nn.Module]) -> int:
    """Bytes of what several modules hold, for each of them but the first."""
    seen: set[int] = set()
    found = 0
    for module in modules:
        own = {id(parameter): parameter for parameter in module.parameters()}
        found += sum(parameter.nbytes for key, parameter in own.items() if key in seen)
        seen |= own.keys()
    return found


def placed(path: Path) -> int:
    """Bytes of a base model that are on a device already."""
    held = {id(parameter): parameter for key, parameter in _placed.items() if key[0] == str(path)}
    return sum(parameter.nbytes for parameter in held.values())


def _files(checkpoint: Checkpoint) -> list[Path]:
    return [each for each in checkpoint.path.iterdir() if each.is_file()] if checkpoint.path.is_dir() else []
