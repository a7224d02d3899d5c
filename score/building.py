"""Construct a module without paying for values that the checkpoint will replace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

Build = Callable[[], nn.Module]

_INITIALISERS = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]


def on_meta(build: Build) -> nn.Module:
    """The module on the meta device: names, shapes and dtypes, no memory. What the constructor raises, this raises."""
    with torch.device("meta"), _parameters_left_empty():
        module = build()
    return module.requires_grad_(False)


def for_real(build: Build, seed: int) -> nn.Module:
    """The module on the CPU. Its parameters are allocated and hold nothing; buffers and plain tensors hold what the
    constructor computed, drawing from `seed` if it draws."""
    with torch.random.fork_rng(devices=[]), _parameters_left_empty():
        torch.manual_seed(seed)
        module = build()
    return module.requires_grad_(False)


@contextmanager
def _parameters_left_empty() -> Iterator[None]:
    """Make `torch.nn.init` skip parameters: all of them come from the checkpoint, and drawing a billion random numbers
    to throw them away is what makes loading slow. Buffers and plain tensors are still initialised."""
    with mock.patch.multiple(nn.init, **{name: _skipping(getattr(nn.init, name)) for name in _INITIALISERS}):
        yield


def _skipping(initialise: Any) -> Any:
    def skip(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return tensor if isinstance(tensor, nn.Parameter) else initialise(tensor, *args, **kwargs)

    return skip
