"""What the time from starting the server to its first answer consists of, on a warm disk.

    python bench/start.py [--rounds 5]

The model is the perceptron of `bench/serve.py` (50 MB). Each round starts `score serve`, asks for `/score` with one row
until there is an answer, and ends it; beside it stands what `import torch` and `import score.main` take by themselves
in a fresh process. Medians. Then the packages whose imports take longest, from `python -X importtime`, those within
torch left out.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from contenders import CACHE, OURS, PORT, Case, contenders
from serve import make_models, serving

HERE = Path(sys.executable).parent
SHOWN = 12


def importing(statement: str) -> float:
    """Seconds of a fresh process that imports something."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=Path(__file__).parent.parent)
    return time.perf_counter() - start


def first_answer(case: Case, body: bytes) -> float:
    """Seconds from starting the server to the answer."""
    start = time.perf_counter()
    with serving(OURS, contenders()[OURS], case):
        while True:
            request = urllib.request.Request(
                f"http://127.0.0.1:{PORT}/score", body, {"Content-Type": "application/json"}
            )
            try:
                urllib.request.urlopen(request, timeout=5).read()
            except OSError:
                time.sleep(0.02)
                continue
            return time.perf_counter() - start


def costs() -> list[tuple[float, str]]:
    """What each top-level package takes to import, without what it imports itself, in milliseconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import score.main"], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parent.parent, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    found: dict[str, float] = {}
    for line in done.stderr.splitlines():
        match = re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", line)
        if match:
            top = match[2].partition(".")[0]
            found[top] = found.get(top, 0.0) + int(match[1]) / 1e3
    return sorted(((took, name) for name, took in found.items()), reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    make_models(CACHE / "models", ["wide"])
    case, body = Case("wide", CACHE / "models" / "wide", "json"), (CACHE / "models" / "wide.json").read_bytes()
    taken: dict[str, list[float]] = {
        "an empty process": [],
        "import torch": [],
        "import score.main": [],
        "first answer": [],
    }
    for _ in range(given.rounds):
        taken["an empty process"].append(importing(""))
        taken["import torch"].append(importing("import torch"))
        taken["import score.main"].append(importing("import score.main"))
        taken["first answer"].append(first_answer(case, body))
    print("| | seconds | over `import torch` |\n|---|--:|--:|")
    base = statistics.median(taken["import torch"])
    for name, each in taken.items():
        middle = statistics.median(each)
        print(f"| {name} | {middle:.2f} | {middle - base:+.2f} |")
    print("\n| package | ms |\n|---|--:|")
    for took, name in costs()[:SHOWN]:
        print(f"| {name} | {took:.0f} |")


if __name__ == "__main__":
    main()
