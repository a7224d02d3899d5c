"""The servers that `bench/serve.py` compares: how each is installed, started and asked.

Each gets a virtual environment of its own below .cache/bench, with the same torch, except this project's own. Batching
is on where there is any, with 64 rows and 5 ms where a time has to be given, in one process that runs the model.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
CACHE = ROOT / ".cache" / "bench"
TORCH = "torch==2.13.0"
PORT = 7300
OURS, TUNED, USUAL = "loadstone", "tuned", "azmlinfsrv"


@dataclass(frozen=True)
class Case:
    """What a contender is started for: a model's folder and the kind of body."""

    model: str
    folder: Path
    body: str


@dataclass(frozen=True)
class Contender:
    """How to install and start a server. `packages` go into its own environment; none means this project's. `kind` is
    the body that it is asked with in place of JSON. `revision` is a commit of this project's."""

    command: Callable[[Case, Path], list[str]]
    path: Callable[[str], str]
    packages: tuple[str, ...] = ()
    ready: str = "/"
    bodies: tuple[str, ...] = ("json", "npy")
    environment: Mapping[str, str] = field(default_factory=dict)
    kind: str = "json"
    revision: str = ""


def revision(commit: str = "") -> Contender:
    """This project as it is, or as it was at a commit: a worktree, and an environment from that commit's lock file."""
    return Contender(
        lambda case, bin: [str(bin / "score"), "serve", str(case.folder), "--port", str(PORT)], lambda _: "/score",
        revision=commit,
    )  # fmt: skip


def contenders() -> dict[str, Contender]:
    entry = str(PEERS / "azmlinfsrv_score.py")
    return {
        OURS: revision(),
        TUNED: Contender(tuned, lambda _: "/score"),
        USUAL: Contender(
            lambda case, bin: [
                str(bin / "azmlinfsrv"), "--entry_script", entry, "--model_dir", str(case.folder), "--port", str(PORT),
            ],
            lambda _: "/score",
        ),
        "fastapi": Contender(
            lambda case, bin: [str(bin / "uvicorn"), "fastapi_app:app", "--port", str(PORT)],
            lambda body: f"/{body}", ("fastapi", "uvicorn[standard]"), "/health",
        ),
        "litserve": Contender(
            lambda case, bin: [str(bin / "python"), "litserve_app.py", str(PORT)],
            lambda _: "/predict", ("litserve",), "/health", ("json",),
        ),
        "bentoml": Contender(
            lambda case, bin: [str(bin / "bentoml"), "serve", "bentoml_service:Model", "--port", str(PORT)],
            lambda _: "/predict", ("bentoml",), "/readyz", ("json",), {"BENTOML_DO_NOT_TRACK": "true"},
        ),
        "mlserver": Contender(
            mlserver, lambda _: "/v2/models/model/infer",
            ("mlserver", "uvloop<0.22"), "/v2/models/model/ready", ("json",),  # newer ones break mlserver 1.7.1
            kind="v2",
        ),
        "torchserve": Contender(
            torchserve,
            lambda _: "/predictions/model",
            ("torchserve", "torch-model-archiver", "pyyaml", "psutil", "setuptools<81"),
            "/ping",
        ),
        "triton": Contender(
            triton, lambda _: "/v2/models/model/infer",
            ("nvidia-pytriton",), "/v2/models/model/ready", ("json",), kind="v2",
        ),
        "kserve": Contender(
            lambda case, bin: [str(bin / "python"), "kserve_app.py", str(PORT)],
            lambda _: "/v1/models/model:predict", ("kserve", "batched"), "/v2/models/model/ready", ("json",),
            kind="instances",
        ),
        "ray": Contender(
            lambda case, bin: [str(bin / "python"), "ray_app.py", str(PORT)],
            lambda _: "/predict", ("ray[serve]",), "/-/healthz", environment={"RAY_USAGE_STATS_ENABLED": "0"},
        ),
    }  # fmt: skip


def tuned(case: Case, bin: Path) -> list[str]:
    """This project after `score tune`, which is done once."""
    folder = work(case, f"{case.model}-tuned")
    if not any(folder.iterdir()):
        shutil.copytree(case.folder, folder, dirs_exist_ok=True)
        subprocess.run([bin / "score", "tune", folder], check=True, capture_output=True)
    return [str(bin / "score"), "serve", str(folder), "--port", str(PORT)]


def mlserver(case: Case, bin: Path) -> list[str]:
    folder = work(case, "mlserver")
    settings = {"http_port": PORT, "grpc_port": PORT + 1, "metrics_port": PORT + 2, "debug": False}
    model = {
        "name": "model",
        "implementation": "mlserver_runtime.Runtime",
        "max_batch_size": 64,
        "max_batch_time": 0.005,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    shutil.copy(PEERS / "mlserver_runtime.py", folder)
    return [str(bin / "mlserver"), "start", str(folder)]


def torchserve(case: Case, bin: Path) -> list[str]:
    folder = work(case, "torchserve")
    (folder / "store").mkdir(exist_ok=True)
    subprocess.run(
        [bin / "torch-model-archiver", "--model-name", "model", "--version", "1", "--force", "--handler",
         PEERS / "torchserve_handler.py", "--export-path", folder / "store"], check=True, capture_output=True,
    )  # fmt: skip
    batching = {"1": {"defaultVersion": True, "marName": "model.mar", "minWorkers": 1, "maxWorkers": 1,
                      "batchSize": 64, "maxBatchDelay": 5, "responseTimeout": 60}}  # fmt: skip
    snapshot = {"name": "start", "modelCount": 1, "models": {"model": batching}}
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{PORT}\nmanagement_address=http://127.0.0.1:{PORT + 1}\n"
        f"metrics_address=http://127.0.0.1:{PORT + 2}\nenable_envvars_config=true\njob_queue_size=1000\n"
        f"disable_token_authorization=true\nmodel_snapshot={json.dumps(snapshot)}\n"
    )
    return [
        str(bin / "torchserve"), "--start", "--foreground", "--disable-token-auth",
        "--model-store", str(folder / "store"), "--ts-config", str(folder / "config.properties"),
    ]  # fmt: skip


def triton(case: Case, bin: Path) -> list[str]:
    """Its Python backend is an executable that looks for the shared library of the Python that it was made for."""
    library = subprocess.run(
        [bin / "python", "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    return ["env", f"LD_LIBRARY_PATH={library}", str(bin / "python"), "triton_app.py", str(PORT)]


def work(case: Case, name: str) -> Path:
    folder = case.folder.parent / f"work-{name}"
    folder.mkdir(exist_ok=True)
    return folder


def environment_of(name: str, contender: Contender) -> Path:
    """The folder of executables of a contender's virtual environment, made where it is missing."""
    if not contender.packages and not contender.revision:
        return Path(sys.executable).parent
    home, ready = CACHE / name, CACHE / name / ".ready"
    wanted = {contender.revision} if contender.revision else {TORCH, "numpy", *contender.packages}
    there = set(ready.read_text().splitlines()) if ready.exists() else set()
    if not wanted <= there:
        print(f"installing {name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        install = [str(home / "bin/pip"), "install", "--quiet"]
        if contender.revision:
            tree = home / "tree"
            if not tree.exists():
                subprocess.run(["git", "worktree", "add", "--force", "--detach", tree, contender.revision], check=True)
            subprocess.run([*install, "-r", str(tree / "requirements.lock")], check=True)
            subprocess.run([*install, "--no-deps", "--editable", str(tree)], check=True)
        else:
            subprocess.run([*install, *sorted(there | wanted)], check=True)
        ready.write_text("\n".join(sorted(there | wanted)))
    return home / "bin"
