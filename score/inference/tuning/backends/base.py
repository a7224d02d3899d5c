"""What a backend is given and what it gives."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score.inference.tuning.samples import Inputs, Samples
from score.inference.tuning.swap import Flat, Run


class NotPossible(Exception):
    """The model can't be run in this way; the text says why."""


def in_short(error: Exception, line: int = 0) -> str:
    """One line of what a library raised, the first or the last; its class where it says nothing."""
    said = str(error).strip().splitlines()
    return said[line][:200] if said else type(error).__name__


@dataclass(eq=False)
class Subject:
    """A model that is to be run in another way, with inputs to try."""

    module: nn.Module
    samples: Samples
    device: torch.device
    threads: int

    @cached_property
    def flat(self) -> Flat:
        return Flat(self.module, self.samples.order).eval()

    @cached_property
    def exported(self) -> Any:
        """The model as a graph whose sizes are free where the samples' differ: `torch.export`, which refuses what
        depends on values. Raises `NotPossible`."""
        free = self.samples.free
        example = max(
            self.samples.all, key=lambda each: (_least(each, free), sum(value.numel() for value in each.values()))
        )
        shapes = tuple(dict.fromkeys(free[name], torch.export.Dim.DYNAMIC) for name in self.samples.order)
        given = tuple(example[name] for name in self.samples.order)
        try:
            with torch.no_grad():
                return torch.export.export(self.flat, given, dynamic_shapes=(shapes,))
        except Exception as error:  # noqa: BLE001  # torch.export raises anything
            raise NotPossible(f"torch.export: {in_short(error)}") from None


def _least(inputs: Inputs, free: Mapping[str, Mapping[int, Any]]) -> bool:
    """Whether all free sizes are 2 or more: of 0 and 1, torch.export takes it that they are always so."""
    return all(inputs[name].shape[at] > 1 for name, dimensions in free.items() for at in dimensions)


@dataclass(frozen=True)
class Built:
    """A way to run a model. `keep` writes what a later start can load into a folder, where there is something;
    `with_threads` is the same with another number of threads, where they are not torch's."""

    run: Run
    keep: Callable[[Path], None] | None = field(default=None, repr=False)
    with_threads: Callable[[int], Run] | None = field(default=None, repr=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print and warn of: what counts is whether the answers agree."""
    with (
        warnings.catch_warnings(),
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
