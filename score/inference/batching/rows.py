"""Requests and answers by their rows: what can be one batch, put together, and taken apart. Pure functions."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from score.codecs.base import Arrays, Records
from score.inference.signature import Signature

TOLERANCE = 1e-3  # of float32 models; a large batch may take other kernels than a single row

Inputs = dict[str, Any]


def rows_and_kind(inputs: Inputs) -> tuple[int, Any]:
    """How many rows, and what other requests have to be like to run with these. None where the inputs have no common
    first dimension."""
    rows = 0
    kind: list[tuple[Any, ...]] = []
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor):
            kind.append((name, value))
            continue
        shape = value.shape
        if not shape or not shape[0] or (rows and shape[0] != rows):
            return 1, None
        rows = shape[0]
        kind.append((name, value.dtype, shape[1:]))
    return (rows, tuple(kind)) if rows else (1, None)


Empty = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
"""Makes the tensor that a batch is put together in, where that is to be in memory of some kind."""


@dataclass
class Rows:
    """How requests become one batch, and a batch's answers theirs: here, those of equal shapes, behind each other."""

    empty: Empty | None = field(default=None, kw_only=True)

    def kind(self, inputs: Inputs) -> tuple[int, Any]:
        """As `rows_and_kind`."""
        return rows_and_kind(inputs)

    def choose(self, waiting: Sequence[Inputs], rows: Sequence[int], most: int) -> list[int]:
        """Of requests of one kind, in the order of their arrival, those that run with the oldest, by their places:
        here, all that fit into `most` rows beside it."""
        left, found = most - rows[0], [0]
        for at, count in enumerate(rows[1:], start=1):
            if count <= left:
                left -= count
                found.append(at)
        return found

    def join(self, batch: Sequence[Inputs]) -> Inputs:
        """Several requests' inputs of one kind as one batch."""
        return {
            name: self._joined([inputs[name] for inputs in batch]) if isinstance(value, torch.Tensor) else value
            for name, value in batch[0].items()
        }

    def _joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.empty is None:
            return torch.cat(list(parts))
        rows = sum(len(part) for part in parts)
        return torch.cat(list(parts), out=self.empty((rows, *parts[0].shape[1:]), parts[0].dtype))

    def split(self, outputs: Arrays, batch: Sequence[Inputs], rows: Sequence[int]) -> list[Arrays]:
        """The batch's outputs by request."""
        ends = list(itertools.accumulate(rows))
        return [sliced(outputs, end - count, end) for end, count in zip(ends, rows, strict=True)]


@dataclass
class AsGuessed(Rows):
    """Requests that have as many dimensions as was guessed are put together, as was tried; any other runs by itself:
    whether its first dimension counts rows is not known."""

    signature: Signature

    def kind(self, inputs: Inputs) -> tuple[int, Any]:
        specs = self.signature.by_name
        for name, value in inputs.items():
            shape = specs[name].shape if name in specs else None
            if isinstance(value, torch.Tensor) and shape is not None and value.dim() != len(shape):
                return 1, None
        return rows_and_kind(inputs)


def part_of(inputs: Inputs, start: int, end: int) -> Inputs:
    return {name: value[start:end] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def all_equal(batch: Sequence[Inputs]) -> bool:
    """Whether all requests of a batch ask the same."""
    return all(
        torch.equal(value, inputs[name])
        for inputs in batch[1:]
        for name, value in batch[0].items()
        if isinstance(value, torch.Tensor)
    )


def sliced(outputs: Arrays, start: int, end: int) -> Arrays:
    """Some rows of all outputs."""
    if isinstance(outputs, np.ndarray):
        return outputs[start:end]
    if isinstance(outputs, Records):
        return Records(outputs.rows[start:end])
    return {name: value[start:end] for name, value in outputs.items()}


def same_rows(
    together: Arrays, alone: Sequence[Arrays | None], rows: Sequence[int], tolerance: float = TOLERANCE
) -> bool:
    """Whether the outputs of a batch are, row by row, those of its parts run alone, within float tolerance."""
    if not has_rows(together, sum(rows)):
        return False
    start = 0
    for single, count in zip(alone, rows, strict=True):
        assert single is not None
        if not _close(sliced(together, start, start + count), single, tolerance):
            return False
        start += count
    return True


def has_rows(outputs: Arrays, rows: int) -> bool:
    if isinstance(outputs, np.ndarray):
        return outputs.shape[:1] == (rows,)
    if isinstance(outputs, Records):
        return len(outputs.rows) == rows
    return all(array.shape[:1] == (rows,) for array in outputs.values())


def _close(one: Arrays, other: Arrays, tolerance: float) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_close(one[name], other[name], tolerance) for name in one)
    assert isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    if other.dtype.kind not in "biufc":  # text
        return np.array_equal(one, other)
    finite = np.abs(other[np.isfinite(other)])
    largest = float(finite.max()) if finite.size else 0.0
    return one.shape == other.shape and bool(
        np.allclose(one, other, rtol=tolerance, atol=tolerance * largest, equal_nan=True)
    )


def concatenated(parts: Sequence[Arrays]) -> Arrays:
    first = parts[0]
    if isinstance(first, Records):
        return Records([row for part in parts if isinstance(part, Records) for row in part.rows])
    if isinstance(first, Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in first}
    return np.concatenate(list(parts))  # type: ignore[arg-type]


def shapes_of(outputs: Arrays) -> str:
    arrays = outputs.values() if isinstance(outputs, Mapping) else (outputs,)
    return ", ".join(str(list(array.shape)) for array in arrays)
