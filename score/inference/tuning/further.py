"""Rows beyond the samples, on which answers are compared too: made up of the largest sample, torch's answers to them
computed once for all backends."""

import time
from collections.abc import Sequence
from functools import cached_property

import torch

from score.inference.tuning import agreement
from score.inference.tuning.agreement import Agreement
from score.inference.tuning.backends.base import Subject
from score.inference.tuning.samples import rows_of
from score.inference.tuning.swap import Run

MOST_HELD = 256e6  # bytes


class Further:
    """`scores` are the outputs that are scores of classes."""

    def __init__(self, subject: Subject, scores: Sequence[int]) -> None:
        self._subject, self.scores = subject, scores
        self._known: dict[int, Sequence[torch.Tensor]] = {}  # torch's answers, by draw
        self._held = 0  # bytes

    def compared(self, run: Run, rows: int, seconds: float, start: int = 0) -> tuple[Agreement, int]:
        """How the answers to made-up rows agree with torch's, and how many rows that were: about as many as are
        wanted, or what the time suffices for; at least one pass. The first `start` of them are left out."""
        whole, count, ends = Agreement(), 0, time.monotonic() + seconds
        each = max(rows_of(self._largest), 1)
        for draw in range(-(-start // each), -(-rows // each)):
            inputs = self._drawn(draw)
            whole += agreement.between(self._wanted(draw, inputs), run(inputs), self.scores)
            count += each
            if time.monotonic() > ends:
                break
        return whole, count

    def _wanted(self, draw: int, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Torch's own answers; kept for the next backend, but for those that are too large."""
        if draw in self._known:
            return self._known[draw]
        found: Sequence[torch.Tensor] = self._subject.flat(*inputs)
        self._held += sum(value.nbytes for value in found)
        if self._held <= MOST_HELD:
            self._known[draw] = found
        return found

    @cached_property
    def _largest(self) -> dict[str, torch.Tensor]:
        samples = map(dict[str, torch.Tensor], self._subject.samples.all)
        return max(samples, key=lambda each: sum(value.numel() for value in each.values()))

    def _drawn(self, draw: int) -> list[torch.Tensor]:
        """Floats drawn anew, whole numbers in another order; the same for the same draw."""
        generator = torch.Generator().manual_seed(2 + draw)
        found = [_drawn(name, value, generator) for name, value in self._largest.items()]
        return [value.to(self._subject.device) for value in found]


def _drawn(name: str, value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator).to(value.dtype)
    if name.endswith("mask"):  # another one could leave nothing of a row
        return value
    return value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view(value.shape)
