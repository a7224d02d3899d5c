"""Classes that stand in for a library's: under its names while they are pickled, and seen by nothing else."""

import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class StandIns:
    """Classes by the module that they pretend to be of."""

    places: Mapping[str, Sequence[type]]

    @property
    def _modules(self) -> list[str]:
        """The modules, each after the packages that it is in."""
        parts = [name.split(".") for name in self.places]
        return list(dict.fromkeys(".".join(each[:count]) for each in parts for count in range(1, len(each) + 1)))

    def put(self) -> None:
        for name in self._modules:
            sys.modules[name] = types.ModuleType(name)
        for name, classes in self.places.items():
            for each in classes:
                each.__module__ = name
                setattr(sys.modules[name], each.__name__, each)

    def forget(self) -> None:
        for name in self._modules:
            sys.modules.pop(name, None)

    def saved(self, value: Any, path: Path) -> Path:
        """Pickled under their names, which nothing knows any more afterwards."""
        torch.save(value, path)
        self.forget()
        return path


def changed(net: nn.Module, change: Mapping[str, Any]) -> nn.Module:
    """A network with other attributes, each named with its place: `encoder.layer1.stride`."""
    for name, value in change.items():
        part, _, attribute = name.rpartition(".")
        setattr(net.get_submodule(part), attribute, value)
    return net


def normalised(net: nn.Module) -> nn.Module:
    """A network whose batch norms have seen something, so that it shows whether they are read."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return net
