"""Other projects' clients against the real server: `make clients-test`, which makes their environment."""

import json
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


def test_openai(tmp_path: Path) -> None:
    folder = tiny.sentences(tmp_path / "embedder")
    wanted = score.Predictor(folder, device="cpu")(np.array(TEXTS))
    with running(folder, tmp_path) as server:
        call("openai", wanted, server.port)
