"""What the memory allocator does to forward passes on this machine: time, page faults and memory.

    python bench/allocator.py [--seconds 4] [--rounds 3] [--models resnet18,mobilenet_v2]

Each allocator that is installed (Debian's libtcmalloc-minimal4, libjemalloc2, libmimalloc2.0) is preloaded into a
process that runs torch as it is, in a thread as the server's: passes of 1 row and of 16; and of 1 to 64 rows, drawn
at random, as under load. The allocators take turns; the table gives medians of the rounds. Memory is the most that was
resident, and faults are pages that the kernel had to give, for each pass.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

FOLDER = Path(f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}")
ALLOCATORS = {
    "glibc": "", "tcmalloc": "libtcmalloc_minimal.so.4", "jemalloc": "libjemalloc.so.2", "mimalloc": "libmimalloc.so.2",
}  # fmt: skip
MIXED = (1, 1, 1, 2, 3, 5, 8, 13, 16, 24, 32, 48, 64)
CASES = {"1 row": (1,), "16 rows": (16,), "1 to 64": MIXED}


def drawn(sizes: tuple[int, ...]) -> Iterator[int]:
    """Rows of one pass after the other: the same for all."""
    order = random.Random(0)
    while True:
        yield order.choice(sizes)


def passes(name: str, sizes: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Rows a second, faults a pass, and the peak in MB."""
    import torch

    from score.inference import cores

    sys.path.insert(0, str(Path(__file__).parent))
    from networks import MODELS

    torch.manual_seed(0)
    torch.set_num_threads(cores.threads())
    model = MODELS[name]
    module = model.build().eval()
    shape = model.shape[1:]
    rows, count = 0, 0
    with torch.inference_mode():
        for size in (1, max(sizes)):
            module(torch.rand(size, *shape))
        before, start = getrusage(RUSAGE_SELF).ru_minflt, time.perf_counter()
        for size in drawn(sizes):
            module(torch.rand(size, *shape))
            rows, count = rows + size, count + 1
            if (took := time.perf_counter() - start) > seconds:
                break
    used = getrusage(RUSAGE_SELF)
    return {"speed": rows / took, "faults": (used.ru_minflt - before) / count, "peak": used.ru_maxrss / 1000}


def child(name: str, case: str, seconds: float) -> None:
    """In a thread, whose memory glibc keeps apart."""
    found: dict[str, float] = {}
    thread = threading.Thread(target=lambda: found.update(passes(name, CASES[case], seconds)))
    thread.start()
    thread.join()
    print(json.dumps(found))


def measured(library: str, name: str, case: str, seconds: float) -> dict[str, float]:
    root = Path(__file__).resolve().parent.parent
    environment: dict[str, Any] = os.environ | {
        "LD_PRELOAD": str(FOLDER / library) if library else "", "PYTHONPATH": str(root), "GOMP_SPINCOUNT": "10000",
    }  # fmt: skip
    command = [sys.executable, __file__, "--child", name, case, str(seconds)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return dict(json.loads(out))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="resnet18,mobilenet_v2,mlp")
    given = parser.parse_args()
    there = {name: library for name, library in ALLOCATORS.items() if not library or (FOLDER / library).exists()}
    print("| model | rows a pass | allocator | rows/s | x glibc | faults a pass | peak MB |")
    print("|---|---|---|--:|--:|--:|--:|")
    for model in given.models.split(","):
        for case in CASES:
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in there}
            for _ in range(given.rounds):
                for name, library in there.items():
                    rounds[name].append(measured(library, model, case, given.seconds))
            middle = {
                name: {key: statistics.median(each[key] for each in found) for key in found[0]}
                for name, found in rounds.items()
            }
            for name, found in middle.items():
                ratio = found["speed"] / middle["glibc"]["speed"]
                print(
                    f"| {model} | {case} | {name} | {found['speed']:,.1f} | {ratio:.2f} | {found['faults']:,.0f} | "
                    f"{found['peak']:,.0f} |", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
