"""Requests per second, latency and memory of this server and of what people use instead, on this machine, in one run.

    python bench/serve.py [--seconds 5] [--rounds 3] [--only NAME ...] [--revision COMMIT ...] [--models wide]
                          [--bodies json] [--out FOLDER]

Needs wrk. `--revision COMMIT` has this project as it was at a commit take part; the others are in bench/contenders.py.
All serve the same pickled module. One server runs at a time; the contenders take turns, `--rounds` times, so that a
machine whose speed drifts favours none. The tables give the median of the rounds.

Memory is the proportional set size of the server's processes after its first load, so shared pages count once.
"""

import argparse
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from contenders import (
    CACHE,
    OURS,
    PEERS,
    PORT,
    ROOT,
    TUNED,
    USUAL,
    Case,
    Contender,
    contenders,
    environment_of,
    revision,
)

CONNECTIONS = (1, 16, 64)
WIDTHS = {"tiny": 10, "wide": 3072}


def make_models(folder: Path, names: list[str]) -> None:
    """Each model's checkpoint, and wrk's script for each body."""
    import numpy as np
    import torch
    from torch import nn

    torch.manual_seed(0)
    made = {
        "tiny": nn.Sequential(nn.Linear(10, 2)),
        "wide": nn.Sequential(
            nn.Linear(3072, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1000)
        ),
    }
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        torch.save(made[name], folder / name / "model.pt")
        row = torch.rand(1, WIDTHS[name])
        tensor = {"name": "data", "shape": list(row.shape), "datatype": "FP32", "data": row.flatten().tolist()}
        array = io.BytesIO()
        np.save(array, row.numpy())
        (folder / f"{name}.json").write_text(json.dumps({"data": row.tolist()}))
        (folder / f"{name}.v2").write_text(json.dumps({"inputs": [tensor]}))
        (folder / f"{name}.instances").write_text(json.dumps({"instances": row.tolist()}))
        (folder / f"{name}.npy").write_bytes(array.getvalue())
    for name in names:
        for kind, content_type in (
            ("json", "application/json"),
            ("v2", "application/json"),
            ("instances", "application/json"),
            ("npy", "application/x-npy"),
        ):
            write_script(folder / f"{name}.{kind}.lua", folder / f"{name}.{kind}", {"Content-Type": content_type})


def write_script(script: Path, body: Path, headers: Mapping[str, str]) -> None:
    """What wrk sends again and again: a file, as the body of a POST."""
    lines = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
    script.write_text(
        f'local file = io.open("{body}", "rb")\nwrk.method = "POST"\nwrk.body = file:read("*a")\nfile:close()\n{lines}'
    )


@contextmanager
def serving(name: str, contender: Contender, case: Case) -> Iterator[int]:
    """A running server: its process group. Ends it afterwards."""
    bin = environment_of(name, contender)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("SCORE_", "GUNICORN_", "PYTHON"))
    } | {
        "MODEL_DIR": str(case.folder), "BENCH_BODY": case.body, "BENCH_SHAPE": str(WIDTHS.get(case.model, 0)),
        "PATH": f"{bin}:{os.environ['PATH']}", **contender.environment,
    }  # fmt: skip
    with (case.folder.parent / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            contender.command(case, bin), env=environment, cwd=PEERS, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(contender.ready):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{name} did not start: see {log.name}")
            time.sleep(0.2)
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        while answers(contender.ready):
            time.sleep(0.2)


def answers(path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def first_answer(path: str, body: Path) -> None:
    """Wait until a request is answered: some say that they are ready before they are."""
    content_type = "application/x-npy" if body.suffix == ".npy" else "application/json"
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}", body.read_bytes(), {"Content-Type": content_type}, method="POST"
    )
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def memory_mb(group: int) -> float:
    """Proportional set size of a process group, in MB."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group or int(fields[3]) == group:  # process group, session
                rollup = (stat.parent / "smaps_rollup").read_text()
                found += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1])  # type: ignore[index]
        except (OSError, TypeError):
            continue
    return found / 1000


def load(script: Path, path: str, connections: int, seconds: float) -> dict[str, float]:
    """One run of wrk. Latencies in milliseconds."""
    out = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "--latency", "-s", script,
         f"http://127.0.0.1:{PORT}{path}"], capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}

    def latency(share: str) -> float:
        number, name = re.search(rf"^\s+{share}%\s+([\d.]+)(\w+)", out, re.M).groups()  # type: ignore[union-attr]
        return float(number) * unit[name]

    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return {
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),  # type: ignore[index]
        "p50": latency("50"),
        "p99": latency("99"),
        "errors": (sum(map(int, socket_errors.groups())) if socket_errors else 0) + (int(failed[1]) if failed else 0),
    }


def measure(name: str, contender: Contender, case: Case, seconds: float) -> dict[int, dict[str, float]]:
    """All connection counts, against one start of a server."""
    kind = contender.kind if case.body == "json" else case.body
    script = case.folder.parent / f"{case.model}.{kind}.lua"
    found = {}
    with serving(name, contender, case) as group:
        first_answer(contender.path(case.body), script.with_suffix(""))
        load(script, contender.path(case.body), 16, 2)  # warm up
        memory = memory_mb(group)
        for connections in CONNECTIONS:
            found[connections] = load(script, contender.path(case.body), connections, seconds) | {"memory": memory}
            print(f"  {name:<12}{case.model:<6}{case.body:<6}{connections:>4}  {found[connections]}", file=sys.stderr)
    return found


def table(results: dict[str, dict[int, dict[str, float]]]) -> str:
    """A Markdown table of one model and body: medians, and the ratio of requests per second to the usual server's."""
    lines = [
        "| server | connections | requests/s | p50 ms | p99 ms | errors | memory MB | x usual |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for connections in CONNECTIONS:
        usual = results.get(USUAL, {}).get(connections, {}).get("rps")
        for name, by_connections in results.items():
            found = by_connections[connections]
            ratio = f"{found['rps'] / usual:.2f}" if usual else "-"
            lines.append(
                f"| {name} | {connections} | {found['rps']:.0f} | {found['p50']:.2f} | {found['p99']:.2f} | "
                f"{found['errors']:.0f} | {found['memory']:.0f} | {ratio} |"
            )
    return "\n".join(lines)


def verdicts(model: str, body: str, results: dict[str, dict[int, dict[str, float]]]) -> list[str]:
    """Ours against the usual server and against the best of the others."""
    found: list[str] = []
    if OURS not in results:
        return found
    earlier = [name for name in results if name not in contenders()]
    others = {name: by for name, by in results.items() if name not in (OURS, TUNED, USUAL, *earlier)}
    for connections in CONNECTIONS:
        ours = results[OURS][connections]
        parts = []
        if USUAL in results:
            usual = results[USUAL][connections]
            parts.append(f"{ours['rps'] / usual['rps']:.2f} x the usual azmlinfsrv's requests/s")
            parts.append(f"p50 {ours['p50'] / usual['p50']:.2f} x")
        parts.extend(f"{ours['rps'] / results[name][connections]['rps']:.2f} x {name}'s" for name in earlier)
        if others:
            best = max(others, key=lambda name: others[name][connections]["rps"])
            parts.append(f"{ours['rps'] / others[best][connections]['rps']:.2f} x the best peer ({best})")
        found.append(f"- {model}, {body}, {connections} connections: {', '.join(parts)}; {ours['errors']:.0f} errors")
    return found


def plot(everything: dict[str, Any], out: Path) -> None:
    """A bar chart of requests/s for each model and body, drawn by matplotlib in an environment of its own."""
    drawer = CACHE / "plot"
    if not (drawer / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", drawer], check=True)
        subprocess.run([drawer / "bin/pip", "install", "--quiet", "matplotlib"], check=True)
        (drawer / ".ready").touch()
    subprocess.run(
        [drawer / "bin/python", ROOT / "bench" / "plot.py", out / "serve.json", out / "serve.svg"], check=True
    )


def median(rounds: list[dict[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    return {
        connections: {
            key: max(values) if key == "errors" else statistics.median(values)
            for key in rounds[0][connections]
            for values in [[found[connections][key] for found in rounds]]
        }
        for connections in CONNECTIONS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--revision", nargs="*", default=[])
    parser.add_argument("--models", nargs="*", default=list(WIDTHS))
    parser.add_argument("--bodies", nargs="*", default=["json", "npy"])
    parser.add_argument("--out", type=Path, default=CACHE / "out")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    given.out.mkdir(parents=True, exist_ok=True)
    folder = CACHE / "models"
    make_models(folder, given.models)
    wanted = {name: found for name, found in contenders().items() if not given.only or name in given.only}
    wanted |= {commit: revision(commit) for commit in given.revision}
    for name, contender in wanted.items():
        environment_of(name, contender)
    everything: dict[str, Any] = {}
    for model in given.models:
        for body in given.bodies:
            case = Case(model, folder / model, body)
            rounds: dict[str, list[dict[int, dict[str, float]]]] = {}
            for _ in range(given.rounds):
                for name, contender in wanted.items():
                    if body in contender.bodies:
                        rounds.setdefault(name, []).append(measure(name, contender, case, given.seconds))
            results = {name: median(found) for name, found in rounds.items()}
            everything[f"{model} {body}"] = results
            print(f"\n### {model}, {body}\n\n{table(results)}\n")
            print("\n".join(verdicts(model, body, results)), flush=True)
    (given.out / "serve.json").write_text(json.dumps(everything, indent=1))
    plot(everything, given.out)
    print(f"\nplot: {given.out / 'serve.svg'}")


if __name__ == "__main__":
    main()
