"""Whether two answers agree: how far they are apart, and for classes, whether the likeliest is the same in all rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Agreement:
    """`error` is the largest difference, as a share of the largest number of the same output; infinite for answers of
    another shape, or with NaN where there was none. `rows` are those whose outputs are scores of classes, `same` those
    of them whose best class is the same."""

    error: float = 0.0
    rows: int = 0
    same: int = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(max(self.error, other.error), self.rows + other.rows, self.same + other.same)

    def holds(self, tolerance: float) -> bool:
        return self.error <= tolerance and self.same == self.rows

    def __str__(self) -> str:
        top = f", best class of {self.same:,} of {self.rows:,} rows" if self.rows else ""
        return f"{self.error:.1e} apart{top}"


def between(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor], scores: Sequence[int] = (0,)) -> Agreement:
    """The agreement of the tensors of two answers to the same inputs; `scores` says which are scores of classes."""
    whole = Agreement() if len(wanted) == len(found) else Agreement(float("inf"))
    for at, (one, other) in enumerate(zip(wanted, found, strict=False)):
        whole += _of(one.detach().cpu(), other.detach().cpu(), at in scores)
    return whole


def _of(wanted: torch.Tensor, found: torch.Tensor, scores: bool) -> Agreement:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return Agreement(float("inf"))
    if not wanted.is_floating_point():
        return Agreement(0.0 if torch.equal(wanted, found) else float("inf"))
    one, other = wanted.double(), found.double()
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()) or not torch.equal(
        one[~finite].nan_to_num(), other[~finite].nan_to_num()
    ):
        return Agreement(float("inf"))
    largest = float(one[finite].abs().max()) if bool(finite.any()) else 0.0
    apart = float((one[finite] - other[finite]).abs().max()) if bool(finite.any()) else 0.0
    error = apart / largest if largest else (0.0 if apart == 0 else float("inf"))
    if not scores or wanted.dim() != 2 or wanted.shape[1] < 2:
        return Agreement(error)
    same = int((one.argmax(1) == other.argmax(1)).sum())
    return Agreement(error, len(one), same)
