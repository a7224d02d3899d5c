"""The real azmlinfsrv in a process of its own, and requests to it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

# A model that takes as long as its input says, adds one, and rejects negative numbers.
SLOW = """
import time
import torch
from torch import nn


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x):
        if (x[:, 1] < 0).any():
            raise ValueError("negative")
        time.sleep(float(x[:, 0].max()))
        return x + self.one
"""

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 90
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; names of headers in any case."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A server that is up."""

    port: int
    log_path: Path
    process: subprocess.Popen

    def request(self, path: str = "/score", body: bytes | None = None, method: str = "POST", **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def post(self, document: Any, **headers: str) -> Answer:
        return self.request(body=json.dumps(document).encode(), **{"Content_Type": "application/json"} | headers)

    @property
    def log(self) -> str:
        return self.log_path.read_text()


def environment(**settings: str) -> dict[str, str]:
    ours = ("SCORE_", "SCORING_", "AZUREML_", "AML_", "GUNICORN_", "WORKER_", "PYTHON")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return clean | settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(model: Path, log_path: Path, port: int, command: Command = (), **settings: str) -> subprocess.Popen:
    """`score serve`, as a user would start it, or another command that takes a port; its output goes to a file."""
    score = Path(sys.executable).parent / "score"
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [*(command or (score, "serve", model, "--verbose")), "--port", str(port)],
            stdout=log, stderr=subprocess.STDOUT, env=environment(**settings), start_new_session=True,
        )  # fmt: skip


@contextmanager
def running(
    model: Path, folder: Path, port: int | None = None, command: Command = (), **settings: str
) -> Iterator[Server]:
    """A server with `model` loaded; stopped afterwards."""
    port, log_path = port or free_port(), folder / "server.log"
    process = start(model, log_path, port, command, **settings)
    server = Server(port, log_path, process)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None:
                raise AssertionError(f"the server ended with {process.returncode}:\n{server.log}")
            try:
                if server.request("/", method="GET").status == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise AssertionError(f"the server did not come up:\n{server.log}")
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something to become true: the log, for one, is written a moment later."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refused(model: Path, folder: Path, **settings: str) -> tuple[int, str]:
    """Start a server that can't load its model: its exit status and its log."""
    log_path = folder / "server.log"
    process = start(model, log_path, free_port(), **settings)
    try:
        status = process.wait(START_SECONDS)
    finally:
        process.kill()
    return status, log_path.read_text()
