"""The same `run()` under our worker, and under stock azmlinfsrv's sync and threaded workers, as in Azure's curated
images: the same answers, with the same headers."""

import gzip
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.simple_model import SimpleModel
from tests.real_server import ROOT, Answer, Server, running

Seen = tuple[int, dict[str, str], bytes]  # status, headers, body
ROWS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)
# Of the connection, or different each time.
_VARIES = {"date", "server", "connection", "keep-alive", "transfer-encoding", "x-ms-run-fn-exec-ms"}


def npy() -> bytes:
    content = io.BytesIO()
    np.save(content, ROWS)
    return content.getvalue()


DATA = json.dumps({"data": ROWS.tolist()}).encode()
V2 = {"inputs": [{"name": "x", "shape": [2, 10], "datatype": "FP32", "data": ROWS.ravel().tolist()}], "id": "7"}
REQUESTS: dict[str, dict[str, Any]] = {
    "json": {"body": DATA},
    "its own ids": {"body": DATA, "x_request_id": "r1", "x_ms_client_request_id": "c1"},
    "an id for azmlinfsrv": {"body": DATA, "TraceId": "t1"},
    "npy": {"body": npy(), "Content_Type": "application/x-npy"},
    "npy to json": {"body": npy(), "Content_Type": "application/x-npy", "Accept": "application/json"},
    "the open inference protocol": {"body": json.dumps(V2).encode()},
    "gzip": {"body": gzip.compress(DATA, mtime=0), "Content_Encoding": "gzip"},
    "a large one, and gzip back": {
        "body": json.dumps({"data": (ROWS.tolist() * 4_000)}).encode(),
        "Accept_Encoding": "gzip",
    },
    "the likeliest class": {"path": "/score?top_k=1", "body": DATA},
    "no json": {"body": b"{"},
    "another shape": {"body": b'{"data": [[1.0]]}'},
    "nothing": {"body": b""},
    "another type": {"body": b"x", "Content_Type": "video/mp4"},
    "not acceptable": {"body": DATA, "Accept": "text/csv"},
    "another path": {"path": "/nowhere", "body": DATA},
    "another method": {"method": "DELETE", "body": None},
    "options": {"method": "OPTIONS", "body": None},
    "liveness": {"path": "/", "method": "GET", "body": None},
    "the page": {"method": "GET", "body": None, "Accept": "text/html"},
    "the description": {"path": "/swagger.json?version=3", "method": "GET", "body": None},
}


def seen(answer: Answer) -> Seen:
    """An answer without what is of the connection: ids that the server made are told by their form."""
    headers = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in _VARIES}
    headers.pop("content-length", None)
    body = gzip.decompress(answer.body) if headers.get("content-encoding") == "gzip" else answer.body
    made = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
    shown = {name: made.sub(b"<id>", value.encode()).decode() for name, value in headers.items()}
    return answer.status, shown, made.sub(b"<id>", body)


def asked(server: Server) -> dict[str, Seen]:
    return {name: seen(server.request(**sent)) for name, sent in REQUESTS.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model")
    torch.save(SimpleModel().state_dict(), folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def ours(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    with running(model, tmp_path_factory.mktemp("ours")) as server:
        assert "Using worker: HttpWorker" in server.log
        return asked(server)


@pytest.mark.parametrize("arguments", ["--worker-class sync", "--worker-class gthread --threads 8"])
def test_the_answers_are_the_same(arguments: str, model: Path, ours: dict[str, Seen], tmp_path: Path) -> None:
    assert ours["json"][0] == ours["a large one, and gzip back"][0] == 200
    # As a curated image starts it: no configuration of ours, only the entry script.
    azmlinfsrv = Path(sys.executable).with_name("azmlinfsrv")
    command = (azmlinfsrv, "--entry_script", ROOT / "score" / "main.py", "--model_dir", model)
    given = {"GUNICORN_CMD_ARGS": arguments, "AML_APP_ROOT": str(ROOT), "AZUREML_MODEL_DIR": str(model)}
    with running(model, tmp_path, command=command, **given) as server:
        theirs = asked(server)
        assert f"Using worker: {arguments.split()[1]}" in server.log
    for name, answer in ours.items():
        assert theirs[name] == answer, name
