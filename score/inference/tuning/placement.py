"""With how many threads a backend runs quickest, and how many rows a pass are worth it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from score.inference import cores
from score.inference.tuning import timing
from score.inference.tuning.backends.base import Built, Subject
from score.inference.tuning.samples import most_rows
from score.inference.tuning.swap import Run
from score.inference.tuning.timing import Speeds

CLEARLY = 1.1  # times as quick, for fewer threads than all


@dataclass(frozen=True)
class Placement:
    """How a backend is to run: with all cores or fewer `threads` (None), and with at most so many `rows` a pass. Beside
    them what was measured: rows a second by threads and by the rows of a pass, and by the latter alone."""

    threads: int | None
    rows: int
    by_threads: dict[int, Speeds] = field(default_factory=dict)
    by_rows: Speeds = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "rows": self.rows,
            "by_threads": {str(count): _rounded(found) for count, found in self.by_threads.items()},
            "by_rows": _rounded(self.by_rows),
        }


def _rounded(found: Speeds) -> dict[str, float]:
    return {str(rows): round(speed, 2) for rows, speed in found.items()}


def tried(built: Built, subject: Subject) -> tuple[Placement, Run]:
    """Measure a backend with all threads and with fewer, then with passes of 1, 2, 4, 8 ... rows; and how it is run
    with the threads that were quickest."""
    before = torch.get_num_threads()
    try:
        return _tried(built, subject)
    finally:
        torch.set_num_threads(before)


def _tried(built: Built, subject: Subject) -> tuple[Placement, Run]:
    samples = subject.samples
    by_threads: dict[int, Speeds] = {}
    best, run = subject.threads, built.run
    for count, limited in _by_threads(built, subject):
        by_threads[count] = timing.speeds(limited, samples, timing.few_and_many(samples))
        gain = timing.speedup(by_threads[count], by_threads[best])
        if gain > (CLEARLY if best == subject.threads else 1.0):
            best, run = count, limited
        elif gain < 1 / CLEARLY:
            break  # and with fewer yet it takes longer yet
    _limit(subject, best if built.with_threads is None else subject.threads)
    by_rows = timing.by_rows(run, samples)  # twice: what else the machine does makes some slower, and none quicker
    again = timing.speeds(run, samples, by_rows)
    by_rows = {rows: max(speed, again[rows]) for rows, speed in by_rows.items()}
    rows = timing.worth(by_rows) if len(by_rows) > 1 else most_rows(samples)
    return Placement(None if best == subject.threads else best, rows, by_threads, by_rows), run


def _by_threads(built: Built, subject: Subject) -> Iterator[tuple[int, Run]]:
    """All threads first. A GPU computes with none."""
    for count in cores.counts(subject.threads) if subject.device.type == "cpu" else [subject.threads]:
        if count == subject.threads or built.with_threads is None:
            _limit(subject, count)
            yield count, built.run
        else:
            yield count, built.with_threads(count)


def _limit(subject: Subject, threads: int) -> None:
    """Torch's own threads, of whoever calls."""
    if subject.device.type == "cpu" and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
