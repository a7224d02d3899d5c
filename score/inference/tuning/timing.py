"""What a pass takes, by its rows."""

import time
from collections.abc import Iterable, Mapping, Sequence

import torch

from score.inference.tuning.samples import Inputs, Samples, most_rows, rows_of, typical, with_rows
from score.inference.tuning.swap import Run

LEAST_RUNS, MOST_RUNS = 3, 200
MEASURED = 0.6  # seconds, for each number of rows
MANY = 16  # rows that come together under load
AROUND = 5e-4  # seconds of a server's own for each pass: to put a batch together, and to take its answers apart
WORTH = 0.95  # of the most rows a second
LONG = 1.0  # seconds; a longer pass is measured once, and larger ones are not

Speeds = dict[int, float]
"""Rows a second, by the rows of a pass."""


def few_and_many(samples: Samples) -> list[int]:
    """One row, and as many as come together under load; what the samples have, where that can't be chosen."""
    wanted = sorted({1, min(MANY, most_rows(samples))})
    return [rows for rows in wanted if with_rows(samples, rows) is not None] or [rows_of(typical(samples))]


def by_rows(run: Run, samples: Samples) -> Speeds:
    """Rows a second in passes of 1, 2, 4, 8 ... rows, up to the most that the samples have, or to a long pass."""
    most = most_rows(samples)
    found: Speeds = {}
    for rows in sorted({1 << power for power in range(most.bit_length())} | {most}):
        found |= speeds(run, samples, [rows])
        if rows in found and rows / found[rows] > LONG:
            break
    return found


def speeds(run: Run, samples: Samples, sizes: Iterable[int]) -> Speeds:
    """Rows a second in passes of some sizes, those that a pass can have; a GPU's, until its answer is here."""
    found: Speeds = {}
    for rows in sizes:
        inputs = with_rows(samples, rows)
        if inputs is not None:
            found[rows] = rows / seconds(run, inputs)
    return found


def seconds(run: Run, inputs: Inputs) -> float:
    """What a pass takes: the median of some."""
    given = list(inputs.values())
    taken = [_taken(run, given)]
    if taken[0] < LONG:  # else what is set up at the first pass is nothing beside it
        taken = [_taken(run, given)]
    ends = time.perf_counter() + MEASURED
    while len(taken) < LEAST_RUNS or (len(taken) < MOST_RUNS and time.perf_counter() < ends):
        if taken[-1] > LONG:
            break
        taken.append(_taken(run, given))
    return sorted(taken)[len(taken) // 2]


def _taken(run: Run, given: Sequence[torch.Tensor]) -> float:
    start = time.perf_counter()
    for value in run(given)[:1]:
        value.cpu()  # a GPU has begun only
    return time.perf_counter() - start


def speedup(found: Mapping[int, float], base: Mapping[int, float]) -> float:
    """How much quicker than another, as the geometric mean over the numbers of rows; zero where there are none."""
    product = 1.0
    for rows, speed in found.items():
        product *= speed / base[rows]
    return product ** (1 / len(found)) if found else 0.0


def worth(found: Mapping[int, float]) -> int:
    """The fewest rows with which a server answers nearly as many as with any: more only make each request wait."""
    served = {rows: rows / (rows / speed + AROUND) for rows, speed in found.items()}
    enough = WORTH * max(served.values())
    return min(rows for rows, speed in served.items() if speed >= enough)
