"""A network by this server, as torch has it and tuned, and by others: whole servers, 1 and 16 connections.

    python bench/network_peers.py [--models resnet18,mlp] [--seconds 5] [--rounds 3] [--only NAME ...]

The same weights for all (`bench/networks.py`), a row or a text a request. Ours and TorchServe are sent npy, and so are
azmlinfsrv with the usual score.py and ONNX Runtime behind FastAPI; LitServe npy as base64 in JSON; Triton its
protocol's binary tensors; MLflow's scoring server lists of numbers: it takes no other arrays. Texts are JSON for all:
64 of 4 to 40 words in turns; azmlinfsrv and MLflow have transformers' pipeline, the others its tokenizer and model.
TorchServe, LitServe and Triton batch (64 rows, 5 ms; texts padded to a batch's longest), the others don't. OpenVINO
Model Server is on no package index. One server runs at a time, in turns; the table has medians: seconds from the start
until wrk has been answered for two, the proportional set size of all processes after that, and requests/s. Needs wrk.
"""

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from contenders import CACHE, OURS, PEERS, PORT, USUAL, Case, Contender, contenders, environment_of, work
from network_files import PATHS, prepare, script
from networks import CONNECTIONS, MODELS, Model, make, trusted, tuned
from serve import load, memory_mb, serving
from texts import servers as text_servers

TRANSFORMERS = f"transformers=={version('transformers')}"
TEXTS = {"onnxruntime": "json", "torchserve": "json", "litserve": "json", "triton": "bytes", "mlflow": "list"}
ARRAYS = {"onnxruntime": "npy", "torchserve": "npy", "litserve": "base64", "triton": "binary", "mlflow": "nested"}
"""The body that a server is asked with."""


def peers(model: Model) -> dict[str, Contender]:
    """The other servers, and what each is asked with."""
    known = contenders()
    kinds = TEXTS if model.of_texts else ARRAYS
    needed = (TRANSFORMERS,) if model.folder else ()
    more = told(model)

    def like(name: str, base: Contender) -> Contender:
        said = "texts" if model.of_texts else kinds[name]
        environment = {**base.environment, **more, "BENCH_BODY": said}
        return dataclasses.replace(base, kind=kinds[name], environment=environment, packages=(*base.packages, *needed))

    behind_fastapi = dataclasses.replace(
        known["fastapi"], packages=(*known["fastapi"].packages, "onnxruntime"),
        path=lambda _: "/texts" if model.of_texts else "/npy",
        command=lambda case, bin: [str(bin / "uvicorn"), "onnxruntime_app:app", "--port", str(PORT)],
    )  # fmt: skip
    of_mlflow = Contender(mlflow, lambda _: "/invocations", ("mlflow>=3", "pandas"), "/health")
    others = {
        "onnxruntime": behind_fastapi, **{name: known[name] for name in ("torchserve", "litserve", "triton")},
        "mlflow": of_mlflow,
    }  # fmt: skip
    if model.of_texts:
        usual = dataclasses.replace(text_servers()[USUAL], kind="json")
    else:
        usual = dataclasses.replace(known[USUAL], kind="npy", environment={**more, "BENCH_BODY": "npy"})
    return {USUAL: usual, **{name: like(name, base) for name, base in others.items()}}


def told(model: Model) -> dict[str, str]:
    """What a server finds in its environment about a model."""
    return {
        "PYTHONPATH": PATHS, "BENCH_SHAPE": ",".join(map(str, model.shape[1:])), "BENCH_DTYPE": model.dtype,
        "BENCH_OUTPUT_DIMENSIONS": str(model.answers), "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip


def mlflow(case: Case, bin: Path) -> list[str]:
    folder = work(case, f"{case.model}-mlflow")
    if not (folder / "saved").exists():
        model = MODELS[case.model]
        environment = {**told(model), "PATH": f"{bin}:/usr/bin:/bin"}
        saving = (
            ("mlflow_save_texts.py", case.folder) if model.of_texts else ("mlflow_save.py", case.folder / "model.pt")
        )
        command = [bin / "python", PEERS / saving[0], saving[1], folder / "saved"]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    return [
        str(bin / "mlflow"), "models", "serve", "--model-uri", str(folder / "saved"), "--port", str(PORT),
        "--env-manager", "local",
    ]  # fmt: skip


def ours(model: Model, how: Mapping[str, str]) -> Contender:
    takes = {} if model.of_texts else {"SCORE_INPUTS": model.takes}
    kind = "json" if model.of_texts else "npy"
    return dataclasses.replace(contenders()[OURS], kind=kind, environment={**how, **takes})


def measured(name: str, contender: Contender, case: Case, seconds: float) -> dict[str, float]:
    wrk = script(CACHE / "network-peers" / case.model, contender.kind)
    path = contender.path(case.body)
    begun = time.monotonic()
    with serving(name, contender, case) as group:
        answered(path, wrk)
        found = {"start": time.monotonic() - begun}
        load(wrk, path, max(CONNECTIONS), 2)  # warm up
        found["memory"] = memory_mb(group)
        for connections in CONNECTIONS:
            answered(path, wrk)  # what wrk has left behind is done
            one = load(wrk, path, connections, seconds)
            found |= {f"rps {connections}": one["rps"], f"p50 {connections}": one["p50"]}
            found["errors"] = max(found.get("errors", 0), one["errors"])
    print(f"  {case.model} {name} {found}", file=sys.stderr)
    return found


def answered(path: str, wrk: Path) -> None:
    """Wait until wrk's own request is answered with 2xx."""
    deadline = time.monotonic() + 120
    while (found := load(wrk, path, 1, 2))["errors"] or not found["rps"]:
        if time.monotonic() > deadline:
            raise SystemExit(f"{path} answers nothing to {wrk}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,mlp")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    print("| model | server | start s | memory MB | 1 connection: /s, p50 ms | 16: /s, p50 ms | errors | x tuned, 16 |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for model_name in given.models.split(","):
        model = MODELS[model_name]
        path, _ = make(model_name, model)
        found = tuned(path, model, 1e-3)
        folder = CACHE / "network-peers" / model_name
        prepare(model_name, model, folder)
        theirs = {name: each for name, each in peers(model).items() if not given.only or name in given.only}
        servers = {
            "loadstone, tuned": (ours(model, trusted(found)), path),
            "loadstone, torch as it is": (ours(model, {"SCORE_BACKEND": "eager"}), path),
            **{name: (each, folder) for name, each in theirs.items()},
        }
        for name, (each, _) in servers.items():
            environment_of(_home(name), each)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(given.rounds):
            for name, (each, place) in servers.items():
                rounds[name].append(measured(_home(name), each, Case(model_name, place, "npy"), given.seconds))
        middle = {name: _medians(got) for name, got in rounds.items()}
        best = middle["loadstone, tuned"]["rps 16"]
        for name, got in middle.items():
            print(
                f"| {model_name} | {name} | {got['start']:.1f} | {got['memory']:,.0f} | {got['rps 1']:,.1f}, "
                f"{got['p50 1']:,.1f} | {got['rps 16']:,.1f}, {got['p50 16']:,.1f} | {got['errors']:.0f} | "
                f"{got['rps 16'] / best:.2f} |", flush=True,
            )  # fmt: skip


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def _home(name: str) -> str:
    """The environment's folder."""
    return OURS if name.startswith(OURS) else name


if __name__ == "__main__":
    main()
