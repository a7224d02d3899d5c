"""Instances for a rate of requests, from what one instance does here: writes bench/scale.md.

    python bench/scale.py [--seconds 6] [--rounds 3]

Needs wrk and taskset. The server runs on one core, wrk on another; 64 connections, medians of the rounds. Everything
beyond that one measured number is arithmetic, and is shown.
"""

import argparse
import math
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from contenders import CACHE, OURS, Case, contenders
from serve import first_answer, load, make_models, serving

RATES = (10, 1_000, 100_000)  # requests a second
VCPUS = (2, 4, 8, 16)
ACROSS_CORES = 0.8  # of what as many single cores would do
UTILISATION = 0.7  # of what an instance can do, so that there is room until a new one is up
CONNECTIONS = 64
CASES = (("tiny", "json"), ("tiny", "npy"), ("wide", "json"), ("wide", "npy"))
OUT = Path(__file__).with_name("scale.md")

TEXT = """# Instances for a rate of requests

Written by `bench/scale.py`. Measured: requests a second of one server that has one core to itself, under 64
connections, with one row a request ({rounds} rounds of {seconds:g} s, medians; {cpu}).

| model | body | requests/s on one core |
|---|---|--:|
{measured}

`tiny` is Linear(10, 2): nearly all of it is HTTP. `wide` is an MLP of 12 million parameters (3072, 2048, 2048, 1000):
25 MFLOP a row, and 62 kB of JSON a request.

## The arithmetic

    an instance carries   r = one core's rate x vCPUs x {across}
    and is planned for    r x {utilisation}
    instances             = requests a second / (r x {utilisation}), rounded up

Instances by vCPUs of an instance:

{tables}

For example: {example}.

## What is assumed

- One vCPU is as fast as one core of the machine above, and rates add up over cores at {across_percent:.0f} %. On
  machines with more than two cores that was not measured. Where a vCPU is a hyper-thread, as on most Azure machines,
  count two for one. For models that compute little, it takes a process every few cores
  (`WORKER_COUNT`), since one process speaks HTTP in one thread; for those that compute much, torch's threads do it.
- An instance is used to {utilisation_percent:.0f} % at most: a new one takes minutes until it is up (it pulls the image
  and the model), and latency rises steeply beyond.
- Requests come evenly, over connections that are kept. Those of one row gather into batches; a client that sends many
  rows in one request needs far fewer requests.
- Nothing is reserved for the loss of an instance: add one to each number for that.
- A managed endpoint has limits of its own on requests a second, connections, bandwidth and instances, by region and by
  subscription; see "Manage and increase quotas" in Azure ML's documentation. At 100,000 requests a second they may
  well come first: split the clients over endpoints, send many rows a request, or take a batch endpoint.
- A GPU is not in here: none was at hand when this was measured.
"""


def rates(seconds: float, rounds: int) -> dict[tuple[str, str], float]:
    """Requests a second on one core, by model and body."""
    folder = CACHE / "models"
    make_models(folder, ["tiny", "wide"])
    ours = contenders()[OURS]
    pinned = replace(ours, command=lambda case, bin: ["taskset", "-c", "0", *ours.command(case, bin)])
    os.sched_setaffinity(0, {1})  # wrk inherits it; taskset moves the server away
    found: dict[tuple[str, str], float] = {}
    for model, body in CASES:
        case = Case(model, folder / model, body)
        script = folder / f"{model}.{body}.lua"
        with serving(OURS, pinned, case):
            first_answer("/score", script.with_suffix(""))
            load(script, "/score", CONNECTIONS, 2)  # warm up
            runs = [load(script, "/score", CONNECTIONS, seconds) for _ in range(rounds)]
        assert not any(run["errors"] for run in runs), runs
        found[model, body] = statistics.median(run["rps"] for run in runs)
        print(model, body, [round(run["rps"]) for run in runs], file=sys.stderr)
    return found


def instances(rate: float, one_core: float, vcpus: int) -> int:
    """How many instances carry `rate` requests a second."""
    return math.ceil(rate / (one_core * vcpus * ACROSS_CORES * UTILISATION))


def table(model: str, body: str, one_core: float) -> str:
    lines = [f"### {model}, {body}", "", f"| requests/s | {' | '.join(f'{count} vCPU' for count in VCPUS)} |"]
    lines.append("|--:|" + "--:|" * len(VCPUS))
    for rate in RATES:
        lines.append(f"| {rate:,} | " + " | ".join(f"{instances(rate, one_core, count):,}" for count in VCPUS) + " |")
    return "\n".join(lines)


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "an unnamed processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found = rates(given.seconds, given.rounds)
    one = found["wide", "json"]
    carried = one * 4 * ACROSS_CORES * UTILISATION
    share = f"1,000 / ({one:.0f} x 4 x {ACROSS_CORES} x {UTILISATION}) = {1000 / carried:.2f}"
    OUT.write_text(
        TEXT.format(
            rounds=given.rounds,
            seconds=given.seconds,
            cpu=cpu(),
            measured="\n".join(f"| {model} | {body} | {rate:,.0f} |" for (model, body), rate in found.items()),
            tables="\n\n".join(table(model, body, rate) for (model, body), rate in found.items()),
            example=f"wide with JSON at 1,000 requests/s on 4 vCPUs: {share}, so {instances(1000, one, 4)}",
            across=ACROSS_CORES,
            across_percent=ACROSS_CORES * 100,
            utilisation=UTILISATION,
            utilisation_percent=UTILISATION * 100,
        )
    )
    print(OUT.read_text())


if __name__ == "__main__":
    main()
