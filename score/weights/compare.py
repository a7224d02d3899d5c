"""What differs between two checkpoints' weights: names, shapes, dtypes, values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from score.errors import NoWeights
from score.formats.base import TensorRef
from score.settings import Settings
from score.weights.align import unwrap
from score.weights.opened import open_weights
from score.weights.progress import Track


@dataclass(frozen=True)
class Changed:
    """A tensor whose values differ: the largest difference, and the share of elements that differ."""

    name: str
    largest: float
    share: float


@dataclass(frozen=True)
class Comparison:
    """Names without wrappers such as `module.`; `shapes` and `dtypes` are (name, first, second)."""

    first: str
    second: str
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    dtypes: tuple[tuple[str, str, str], ...]
    values: tuple[Changed, ...]
    same: int

    @property
    def equal(self) -> bool:
        return not (self.only_first or self.only_second or self.shapes or self.dtypes or self.values)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "equal": self.equal}


def compare(first: Path, second: Path, track: Track = iter) -> Comparison:
    """Compare two checkpoints of any formats, one tensor of each in memory at a time. Raises a `LoadError`."""
    one, other = _weights(first), _weights(second)
    common = [name for name in one if name in other]
    shapes = [(name, one[name].shape, other[name].shape) for name in common if one[name].shape != other[name].shape]
    dtypes = [
        (name, one[name].dtype_name, other[name].dtype_name)
        for name in common
        if one[name].dtype_name != other[name].dtype_name
    ]
    values, same = [], 0
    for name in track([name for name in common if one[name].shape == other[name].shape]):
        changed = _changed(name, one[name].load(), other[name].load())
        if changed is None:
            same += 1
        else:
            values.append(changed)
    return Comparison(
        str(first), str(second), tuple(name for name in one if name not in other),
        tuple(name for name in other if name not in one), tuple(shapes), tuple(dtypes),
        tuple(sorted(values, key=lambda each: -each.largest)), same,
    )  # fmt: skip


def _weights(path: Path) -> dict[str, TensorRef]:
    weights = open_weights(Settings.load(path), verify=False).chosen
    if weights is None:
        raise NoWeights(f"{path.name} holds no weights that could be compared")
    return {unwrap(name): tensor for name, tensor in weights.tensors.items()}


def _changed(name: str, one: torch.Tensor, other: torch.Tensor) -> Changed | None:
    """None where all elements are equal, NaN to NaN counted as equal."""
    wide = torch.complex128 if one.is_complex() or other.is_complex() else torch.float64
    a, b = one.to_dense().to(wide), other.to_dense().to(wide)
    differs = (a != b) & ~(torch.isnan(a) & torch.isnan(b))
    if not differs.any():
        return None
    return Changed(name, float((a - b).abs()[differs].max()), float(differs.double().mean()))
