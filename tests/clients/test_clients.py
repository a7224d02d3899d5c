"""Other projects' clients against the real server: `make clients-test`, which makes their environment."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import score
from models.simple_model import SimpleModel
from tests.inference.tasks import tiny
from tests.real_server import ROOT, Server, free_port, running

pytestmark = pytest.mark.clients
PYTHON = ROOT / ".cache/clients/bin/python"
CALLS = Path(__file__).with_name("calls.py")
ROWS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)
TEXTS = ["hello world", "A second, rather longer sentence."]


def call(client: str, wanted: Any, *ports: int) -> None:
    done = subprocess.run(
        [PYTHON, CALLS, client, *map(str, ports)], input=json.dumps(wanted), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith(f"{client}: all calls work\n")


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, int, Any]]:
    torch.manual_seed(3)
    model = SimpleModel()
    folder = tmp_path_factory.mktemp("models") / "simple"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pt")
    with torch.inference_mode():
        wanted = model(torch.from_numpy(ROWS)).tolist()
    grpc_port = free_port()
    with running(folder, tmp_path_factory.mktemp("server"), SCORE_GRPC_PORT=str(grpc_port)) as server:
        yield server, grpc_port, wanted


@pytest.mark.parametrize(
    "client",
    ["triton_http", "triton_http_aio", "triton_grpc", "triton_grpc_aio", "kserve_rest", "kserve_grpc", "mlflow"],
)
def test_a_client(client: str, simple: tuple[Server, int, Any]) -> None:
    server, grpc_port, wanted = simple
    call(client, wanted, server.port, grpc_port)


def test_several_models(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for at, name in enumerate(("simple", "other")):
        torch.manual_seed(at)
        model = SimpleModel()
        torch.save(model.state_dict(), tmp_path / "models" / f"{name}.pt")
        if name == "simple":
            wanted = model(torch.from_numpy(ROWS)).tolist()
    grpc_port = free_port()
    with running(tmp_path / "models", tmp_path, SCORE_GRPC_PORT=str(grpc_port)) as server:
        call("triton_several", wanted, server.port, grpc_port)


def test_openai(tmp_path: Path) -> None:
    folder = tiny.sentences(tmp_path / "embedder")
    wanted = score.Predictor(folder, device="cpu")(np.array(TEXTS))
    with running(folder, tmp_path) as server:
        call("openai", wanted, server.port)


def test_the_protocols_own_description(simple: tuple[Server, int, Any], tmp_path: Path) -> None:
    """As MLServer's package carries it, with this server's model in its paths: what is answered is as it says."""
    server, _, _ = simple
    packages = next((PYTHON.parent.parent / "lib").glob("python3*/site-packages"))
    for name, operations in (("dataplane", 9), ("model_repository", 3)):
        document = json.loads((packages / f"mlserver/rest/openapi/{name}.json").read_text())
        paths = {}
        for path, item in document["paths"].items():
            for method in item.values():
                if isinstance(method, dict):
                    kept = [each for each in method.get("parameters", []) if each.get("name") not in _IN_PATHS]
                    method["parameters"] = kept
            item["parameters"] = [each for each in item.get("parameters", []) if each.get("name") not in _IN_PATHS]
            for parameter, value in _IN_PATHS.items():
                path = path.replace(f"{{{parameter}}}", value)
            if "generate" not in path and "stream" not in path and "docs" not in path:  # MLServer's own
                paths[path] = item
        document["paths"] = paths
        if "TensorData" in document["components"]["schemas"]:  # whose type there is `bytes`, which is none
            document["components"]["schemas"]["TensorData"] = {"type": "array", "items": {"type": "number"}}
        assert sum(method in ("get", "post") for item in paths.values() for method in item) >= operations
        described = tmp_path / f"{name}.json"
        described.write_text(json.dumps(document))
        command = [
            ROOT / ".venv/bin/schemathesis", "run", described, "--url", f"http://127.0.0.1:{server.port}",
            "--checks", "not_a_server_error,response_schema_conformance,content_type_conformance",
            "--phases", "coverage,fuzzing", "--max-examples", "20", "--seed", "1", "--no-color",
        ]  # fmt: skip
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert found.returncode == 0, found.stdout[-6000:]


_IN_PATHS = {"model_name": "simple", "model_version": "1"}


def test_the_files_for_kserve() -> None:
    """With KServe's definitions too, where KSERVE_CRDS names a folder that has them."""
    crds = [os.environ["KSERVE_CRDS"]] if "KSERVE_CRDS" in os.environ else []
    command = [PYTHON, Path(__file__).with_name("kserve_files.py"), *crds]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 4
