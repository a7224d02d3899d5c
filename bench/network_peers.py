"""A network by this server, as torch has it and tuned, and by others: whole servers, 1 and 16 connections.

    python bench/network_peers.py [--models resnet18,mlp] [--seconds 5] [--rounds 3] [--only NAME ...]

The same weights for all (`bench/networks.py`), a row a request. Ours and TorchServe are sent npy, and so are
azmlinfsrv with the usual score.py and ONNX Runtime behind FastAPI; LitServe npy as base64 in JSON; Triton its
protocol's binary tensors; MLflow's scoring server lists of numbers: it takes no other arrays. TorchServe, LitServe
and Triton batch (64 rows, 5 ms), the others don't. OpenVINO Model Server is on no package index. One server runs at a
time, in turns; the table has medians: seconds from the start until wrk has been answered for two, the proportional
set size of all processes after that, and requests/s. Needs wrk.
"""

import argparse
import base64
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contenders import CACHE, OURS, PEERS, PORT, ROOT, USUAL, Case, Contender, contenders, environment_of, work
from networks import AS_NPY, CONNECTIONS, MODELS, Model, make, trusted, tuned
from serve import load, memory_mb, serving, write_script

CLASSES = CACHE / "classes"
PATHS = f"{CLASSES}:{ROOT}"  # where a pickle finds the class of its module, as it is installed with us


def peers(shape: tuple[int, ...]) -> dict[str, Contender]:
    """The other servers, and what each is asked with."""
    known = contenders()
    more = {"PYTHONPATH": PATHS, "BENCH_SHAPE": ",".join(map(str, shape))}

    def like(name: str, body: str, **change: Any) -> Contender:
        found = known[name]
        environment = {**found.environment, **more, "BENCH_BODY": body}
        return dataclasses.replace(found, kind=body, environment=environment, **change)

    return {
        USUAL: like(USUAL, "npy"),
        "onnxruntime": like(
            "fastapi", "npy", packages=("fastapi", "uvicorn[standard]", "onnxruntime"), path=lambda _: "/npy",
            command=lambda case, bin: [str(bin / "uvicorn"), "onnxruntime_app:app", "--port", str(PORT)],
        ),
        "torchserve": like("torchserve", "npy"),
        "litserve": like("litserve", "base64"),
        "triton": like("triton", "binary"),
        "mlflow": Contender(
            mlflow, lambda _: "/invocations", ("mlflow>=3", "pandas"), "/health", kind="nested",
            environment={**more, "MLFLOW_DISABLE_TELEMETRY": "true"},
        ),
    }  # fmt: skip


def mlflow(case: Case, bin: Path) -> list[str]:
    folder = work(case, f"{case.model}-mlflow")
    if not (folder / "saved").exists():
        shape = ",".join(map(str, MODELS[case.model].shape[1:]))
        environment = {"PYTHONPATH": PATHS, "PATH": f"{bin}:/usr/bin:/bin", "BENCH_SHAPE": shape}
        command = [bin / "python", PEERS / "mlflow_save.py", case.folder / "model.pt", folder / "saved"]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    return [
        str(bin / "mlflow"), "models", "serve", "--model-uri", str(folder / "saved"), "--port", str(PORT),
        "--env-manager", "local",
    ]  # fmt: skip


def prepare(name: str, model: Model, folder: Path) -> None:
    """The module, pickled whole and as ONNX, and wrk's script and body for each kind."""
    import numpy as np
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    CLASSES.mkdir(exist_ok=True)
    if not (CLASSES / "loadstone_models").exists():
        (CLASSES / "loadstone_models").symlink_to(ROOT / "models")
    module = model.build().eval()
    held = torch.load(CACHE / "tuned" / name / "model.pt", weights_only=False)  # our own: `networks.make` wrote it
    module.load_state_dict(held.state_dict() if isinstance(held, torch.nn.Module) else held)
    torch.save(module, folder / "model.pt")
    rows = torch.rand(model.shape)
    torch.onnx.export(
        module, (rows,), str(folder / "model.onnx"), dynamo=False, input_names=["data"], output_names=["output"],
        dynamic_axes={"data": {0: "rows"}, "output": {0: "rows"}},
    )  # fmt: skip
    array = folder / "body.npy"
    np.save(array, rows.numpy())
    head = json.dumps(
        {
            "inputs": [
                {"name": "data", "shape": list(model.shape), "datatype": "FP32",
                 "parameters": {"binary_data_size": rows.numel() * 4}}
            ],
            "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
        }
    ).encode()  # fmt: skip
    bodies = {
        "npy": (array.read_bytes(), AS_NPY),
        "base64": (
            json.dumps({"data": base64.b64encode(array.read_bytes()).decode()}).encode(),
            {"Content-Type": "application/json"},
        ),
        "binary": (
            head + rows.numpy().tobytes(),
            {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))},
        ),
        "nested": (json.dumps({"inputs": rows.tolist()}).encode(), {"Content-Type": "application/json"}),
    }
    for kind, (body, headers) in bodies.items():
        place = script(folder, kind).with_suffix("")
        place.write_bytes(body)
        write_script(script(folder, kind), place, headers)


def script(folder: Path, kind: str) -> Path:
    return folder.parent / f"{folder.name}.{kind}.lua"


def ours(model: Model, how: Mapping[str, str]) -> Contender:
    return dataclasses.replace(contenders()[OURS], kind="npy", environment={**how, "SCORE_INPUTS": model.takes})


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
        theirs = {name: each for name, each in peers(model.shape[1:]).items() if not given.only or name in given.only}
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
