"""Trying the ways to run a model: how quick each is, and whether its answers are torch's own."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from score.inference.tuning import agreement, placement, timing
from score.inference.tuning.agreement import Agreement
from score.inference.tuning.backends import BACKENDS, eager
from score.inference.tuning.backends.base import Built, NotPossible, Subject, in_short, quiet
from score.inference.tuning.further import Further
from score.inference.tuning.placement import Placement
from score.inference.tuning.samples import Samples, most_rows
from score.inference.tuning.swap import Answer, Run, common_answer, tensors_of

ROWS = 1000  # beyond the samples, on which the best is compared with torch
COMPARED = 1.0  # seconds, of these rows, for each of the others
TO_TRY, TO_COMPARE = 0.75, 0.9  # of the time: until then ways are tried, and further rows of the best compared
HOPELESS, START = 5.0, 5.0  # times as long as torch takes for all samples, and seconds, after which one is given up
WORTH_TRUST = 1.1  # times as quick, for a backend whose files run only where their hash is trusted


@dataclass(frozen=True)
class Tried:
    """One way: its rows a second by the rows of a pass, and how far its answers are from torch's; or why it is out.
    `further` are the rows that were compared beyond the samples."""

    name: str
    rows_per_second: dict[int, float] = field(default_factory=dict)
    agreement: Agreement | None = None
    refused: str = ""
    seconds: float = 0.0
    further: int = 0

    def counts(self, tolerance: float) -> bool:
        return not self.refused and self.agreement is not None and self.agreement.holds(tolerance)

    def speedup(self, base: "Tried") -> float:
        return timing.speedup(self.rows_per_second, base.rows_per_second)

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
    """All that was tried, and the quickest of those that agree; `built` is how it is put together, `run` how it runs
    where it was placed best."""

    tried: tuple[Tried, ...]
    best: Tried
    built: Built
    run: Run
    placement: Placement
    answer: Answer
    samples: Samples
    device: torch.device

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
        answer = common_answer(module, samples)
        if answer is None or module._forward_hooks or module._forward_pre_hooks:
            return None
        began = time.monotonic()
        reference = [tensors_of(module(**dict(inputs))) for inputs in samples.all]
        patience = HOPELESS * (time.monotonic() - began) + START
    began = time.monotonic()
    further = Further(subject, answer.scores)
    tried: list[Tried] = []
    kept: Built | None = None
    for name in wanted:
        told(name)
        if tried and time.monotonic() > began + TO_TRY * seconds:
            tried.append(Tried(name, refused="the time was over"))
            continue
        found, built = _try(name, subject, reference, further, patience)
        tried.append(found)
        if built is not None and _best(tried, tolerance, by_hand) is found:
            kept = built
    assert kept is not None, "torch agrees with itself"
    best, kept = _confirmed(tried, kept, subject, further, tolerance, by_hand, began + TO_COMPARE * seconds)
    placed, quickest = _placed(kept, subject, time.monotonic() < began + seconds)
    return Outcome(tuple(tried), best, kept, quickest, placed, answer, samples, device)


def _best(tried: Sequence[Tried], tolerance: float, by_hand: str | None) -> Tried:
    """The quickest of those that agree; one that needs trust has to be clearly quicker than what was tried before."""
    base, *others = tried
    best = base
    for each in others:
        if each.counts(tolerance) and best.name != by_hand:
            asked = WORTH_TRUST if getattr(BACKENDS[each.name], "CODE", ()) else 1.0
            if each.name == by_hand or each.speedup(base) > best.speedup(base) * asked:
                best = each
    return best


def _confirmed(
    tried: list[Tried],
    kept: Built,
    subject: Subject,
    further: Further,
    tolerance: float,
    by_hand: str | None,
    ends: float,
) -> tuple[Tried, Built]:
    """The best, once its answers to further rows agree too, as many as the time suffices for; else the next best,
    which is put together again. What is found of each goes into `tried`."""
    best = first = _best(tried, tolerance, by_hand)
    while best.name != eager.NAME:
        at = tried.index(best)
        try:
            with quiet(), torch.inference_mode():
                kept = kept if best is first else BACKENDS[best.name].build(subject)
                left = ends - time.monotonic()
                found, rows = further.compared(kept.run, ROWS, left, best.further) if left > 0 else (Agreement(), 0)
            tried[at] = replace(best, agreement=(best.agreement or found) + found, further=best.further + rows)
        except Exception as error:  # noqa: BLE001  # a backend raises anything on what it can't run
            tried[at] = replace(best, refused=f"{type(error).__name__}: {in_short(error)}")
        if tried[at].counts(tolerance):
            return tried[at], kept
        best = _best(tried, tolerance, by_hand)
    return best, eager.build(subject)


def _placed(built: Built, subject: Subject, time_left: bool) -> tuple[Placement, Run]:
    if not time_left:
        return Placement(None, most_rows(subject.samples)), built.run
    with quiet(), torch.inference_mode():
        return placement.tried(built, subject)


def _try(
    name: str,
    subject: Subject,
    reference: Sequence[Sequence[torch.Tensor]],
    further: Further,
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
                whole += agreement.between(wanted, built.run(list(inputs.values())), further.scores)
                if time.monotonic() - begun > patience:
                    raise NotPossible(f"much slower than torch: given up after {time.monotonic() - begun:.0f} s")
            beyond, rows = further.compared(built.run, ROWS, COMPARED)
            found = timing.speeds(built.run, subject.samples, timing.few_and_many(subject.samples))
    except NotPossible as error:
        return Tried(name, refused=str(error), seconds=time.monotonic() - start), None
    except Exception as error:  # noqa: BLE001  # a backend raises anything on what it can't run
        why = f"{type(error).__name__}: {in_short(error)}"
        return Tried(name, refused=why, seconds=time.monotonic() - start), None
    return Tried(name, found, whole + beyond, seconds=time.monotonic() - start, further=rows), built
