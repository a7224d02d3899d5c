"""Trying the ways to run a model: how quick each is, and whether its answers are torch's own."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score.architectures.sentence_encoder import SentenceEncoder
from score.inference.tuning import agreement
from score.inference.tuning.agreement import Agreement
from score.inference.tuning.backends import BACKENDS, eager
from score.inference.tuning.backends.base import Built, NotPossible, Subject
from score.inference.tuning.samples import Inputs, Samples
from score.inference.tuning.swap import Answer, answer_of, tensors_of

LEAST_RUNS, MOST_RUNS = 3, 200
MEASURED = 0.6  # seconds, for each number of rows
COMPARED = 1.0  # seconds, of further rows
MOST_COMPARED = 1024  # rows
MANY = 16


@dataclass(frozen=True)
class Tried:
    """One way: its rows a second by the rows of a pass, and how far its answers are from torch's; or why it is out."""

    name: str
    rows_per_second: dict[int, float] = field(default_factory=dict)
    agreement: Agreement | None = None
    refused: str = ""
    seconds: float = 0.0

    def counts(self, tolerance: float) -> bool:
        return not self.refused and self.agreement is not None and self.agreement.holds(tolerance)

    def speedup(self, base: "Tried") -> float:
        """How much quicker than another, as the geometric mean over the numbers of rows."""
        shares = [found / base.rows_per_second[rows] for rows, found in self.rows_per_second.items()]
        product = 1.0
        for share in shares:
            product *= share
        return product ** (1 / len(shares)) if shares else 0.0

    def as_dict(self) -> dict[str, Any]:
        found = self.agreement
        return {
            "backend": self.name,
            "rows_per_second": {str(rows): round(speed, 2) for rows, speed in self.rows_per_second.items()},
            "error": None if found is None or found.error == float("inf") else found.error,
            "top_1": None if found is None or not found.rows else {"rows": found.rows, "same": found.same},
            "refused": self.refused or None,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Outcome:
    """All that was tried, and the quickest of those that agree; `built` is how it runs."""

    tried: tuple[Tried, ...]
    best: Tried
    built: Built
    answer: Answer
    samples: Samples
    device: torch.device

    @property
    def most_rows(self) -> int:
        return max(rows_of(each) for each in self.samples.all)

    @property
    def base(self) -> Tried:
        return next(each for each in self.tried if each.name == eager.NAME)


def run(
    module: nn.Module,
    samples: Samples,
    device: torch.device,
    threads: int,
    tolerance: float,
    seconds: float,
    names: Sequence[str] = (),
    by_hand: str | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Outcome | None:
    """Try the ways that are `names`, or all, within a time; the best is the quickest that agrees, or the one that was
    chosen `by_hand`, if it does. None for a model whose answers can't be taken apart."""
    wanted = list(BACKENDS) if not names else [eager.NAME, *(name for name in names if name != eager.NAME)]
    subject = Subject(module, samples, device, threads)
    with torch.inference_mode():
        answer = _answer(module, samples)
        if answer is None or module._forward_hooks or module._forward_pre_hooks:
            return None
        begun = time.monotonic()
        reference = [tensors_of(module(**dict(inputs))) for inputs in samples.all]
        took = time.monotonic() - begun
    ends = time.monotonic() + seconds
    tried: list[Tried] = []
    best: tuple[Tried, Built] | None = None
    for name in wanted:
        told(name)
        if tried and time.monotonic() > ends:
            tried.append(Tried(name, refused="the time was over"))
            continue
        found, built = _try(name, subject, reference, answer.scores, HOPELESS * took + START)
        tried.append(found)
        if built is not None and found.counts(tolerance):
            quicker = best is None or found.speedup(tried[0]) > best[0].speedup(tried[0]) * _asked_of(name)
            if name == by_hand or (quicker and (best is None or best[0].name != by_hand)):
                best = found, built
    assert best is not None, "torch agrees with itself"
    return Outcome(tuple(tried), *best, answer, samples, device)


HOPELESS, START = 5.0, 5.0  # times as long as torch takes for all samples, and seconds, after which one is given up
WORTH_TRUST = 1.1  # times as quick, for a backend whose files run only where their hash is trusted


def _asked_of(name: str) -> float:
    """How much quicker than another a backend has to be."""
    return WORTH_TRUST if getattr(BACKENDS[name], "CODE", ()) else 1.0


@dataclass(frozen=True)
class Verified:
    """A backend that was put together again, and whether its answers still agree."""

    built: Built
    answer: Answer
    agreement: Agreement


def verified(
    module: nn.Module, samples: Samples, device: torch.device, threads: int, name: str, built: Built | None
) -> Verified | None:
    """A backend, as it was `built` or afresh, compared with torch; None where the model's answers can't be."""
    subject = Subject(module, samples, device, threads)
    with torch.inference_mode():
        few = Samples(samples.order, (min(samples.all, key=rows_of), samples.all[min(2, len(samples.all) - 1)]))
        answer = _answer(module, few)
        if answer is None:
            return None
        with quiet():
            built = built or BACKENDS[name].build(subject)
        whole = Agreement()
        for inputs in few.all:
            wanted = tensors_of(module(**dict(inputs)))
            whole += agreement.between(wanted, built.run(list(inputs.values())), answer.scores)
    return Verified(built, answer, whole)


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


def rows_of(inputs: Inputs) -> int:
    first = next(iter(inputs.values()))
    return first.shape[0] if first.dim() else 1


def _answer(module: nn.Module, samples: Samples) -> Answer | None:
    """The structure of the answers; None where it is not the same for all samples."""
    found = [answer_of(module(**dict(inputs))) for inputs in samples.all]
    first = found[0]
    alike = all(
        each is not None
        and first is not None
        and (each.spec, each.leaves, each.tensors) == (first.spec, first.leaves, first.tensors)
        for each in found
    )
    if first is not None and isinstance(module, SentenceEncoder):
        first = replace(first, scores=())  # an embedding has no best class
    return first if alike else None


def _try(
    name: str,
    subject: Subject,
    reference: Sequence[Sequence[torch.Tensor]],
    scores: Sequence[int],
    patience: float,
) -> tuple[Tried, Built | None]:
    """Build, compare and time a backend. One that takes more than `patience` seconds to answer all samples is given up:
    half floats on a processor without instructions for them take a hundred times as long."""
    start = time.monotonic()
    backend = BACKENDS[name]
    if (why := backend.missing(subject.device)) is not None:
        return Tried(name, refused=why), None
    try:
        with quiet():
            built: Built = backend.build(subject)
        with torch.inference_mode():
            whole, begun = Agreement(), time.monotonic()
            for inputs, wanted in zip(subject.samples.all, reference, strict=True):
                whole += agreement.between(wanted, built.run(list(inputs.values())), scores)
                if time.monotonic() - begun > patience:
                    raise NotPossible(f"much slower than torch: given up after {time.monotonic() - begun:.0f} s")
            whole += _compared(subject, built, scores)
            speeds = {rows: rows / _seconds(built, inputs) for rows, inputs in _to_measure(subject.samples)}
    except NotPossible as error:
        return Tried(name, refused=str(error), seconds=time.monotonic() - start), None
    except Exception as error:  # noqa: BLE001  # a backend raises anything on what it can't run
        said = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {said[0][:200] if said else ''}"
        return Tried(name, refused=why, seconds=time.monotonic() - start), None
    return Tried(name, speeds, whole, seconds=time.monotonic() - start), built


def _compared(subject: Subject, built: Built, scores: Sequence[int]) -> Agreement:
    """Further rows, of the largest sample's shape, for a while: floats drawn anew, whole numbers in another order."""
    largest = max(subject.samples.all, key=lambda each: sum(value.numel() for value in each.values()))
    generator = torch.Generator().manual_seed(2)
    whole, ends = Agreement(), time.monotonic() + COMPARED
    while whole.rows < MOST_COMPARED and time.monotonic() < ends:
        inputs = [_drawn(name, value, generator) for name, value in largest.items()]
        inputs = [value.to(subject.device) for value in inputs]
        whole += agreement.between(subject.flat(*inputs), built.run(inputs), scores)
    return whole


def _drawn(name: str, value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator).to(value.dtype)
    if name.endswith("mask"):  # another one could leave nothing of a row
        return value
    return value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view(value.shape)


def _to_measure(samples: Samples) -> Iterator[tuple[int, Inputs]]:
    """One row, and as many as come together under load."""
    by_rows = {rows_of(each): each for each in samples.all}
    many = min((rows for rows in by_rows if rows >= MANY), default=max(by_rows))
    for rows in sorted({min(by_rows), many}):
        yield rows, by_rows[rows]


def _seconds(built: Built, inputs: Inputs) -> float:
    """What a pass takes: the median."""
    given = list(inputs.values())
    for _ in range(2):
        built.run(given)
    taken: list[float] = []
    ends = time.perf_counter() + MEASURED
    while len(taken) < LEAST_RUNS or (len(taken) < MOST_RUNS and time.perf_counter() < ends):
        start = time.perf_counter()
        for value in built.run(given)[:1]:
            value.cpu()  # a GPU has begun only
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]
