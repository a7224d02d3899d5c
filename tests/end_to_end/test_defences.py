"""What the worker gives up once the model is loaded, and what ends a worker that is stuck."""

import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.real_server import Server, running, until

# A model that does what it is told, as a library that was broken into would.
TRIES = """
import os
import socket
import subprocess
import tempfile
import time

import torch
from torch import nn


def _try(action):
    try:
        action()
        return 1.0
    except OSError:
        return 0.0


ACTIONS = [
    lambda: open("{outside}", "w"),
    lambda: subprocess.run(["true"]),
    lambda: socket.create_connection(("127.0.0.1", 9), 1),
    lambda: tempfile.TemporaryFile().write(b"x"),
    lambda: open(__file__).read(),
]


class Tries(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x):
        if float(x[0, 0]) > 100:
            while True:
                time.sleep(0.1)
        return torch.tensor([[_try(action) for action in ACTIONS]]).expand(len(x), -1) * self.one
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    torch.save({"one": torch.ones(1)}, tmp_path / "model" / "model.pt")
    (tmp_path / "model" / "tries.py").write_text(TRIES.replace("{outside}", str(tmp_path / "model" / "written")))
    return tmp_path / "model"


SETTINGS = {"SCORE_ARCHITECTURE": "tries.py:Tries", "SCORE_INPUTS": "float32[N, 1]"}


def _tried(server: Server) -> list[float]:
    found: list[float] = server.post({"data": [[0.0]]}).json["predictions"][0]
    return found


def test_the_worker_can_not_write_execute_or_connect(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path, **SETTINGS, TMPDIR=str(tmp_path)) as server:
        confined = server.request(method="GET", Accept="application/json").json["serving"]["confined"]
        if "landlock" not in confined or "seccomp" not in confined:
            pytest.skip(f"this kernel has {confined}")
        assert "confined by no-new-privileges, landlock, seccomp" in server.log
        # tmp_path is the temporary folder here, and the model lies below it
        assert _tried(server)[1:] == [0.0, 0.0, 1.0, 1.0]
    with running(model, tmp_path, **SETTINGS, SCORE_CONFINE="require") as server:
        assert _tried(server)[1:3] == [0.0, 0.0]


def test_confinement_can_be_turned_off(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path, **SETTINGS, SCORE_CONFINE="off") as server:
        assert _tried(server) == [1.0, 1.0, 0.0, 1.0, 1.0]  # nothing listens at that port
        assert "confined by off" in server.log


def test_a_pass_that_never_ends_ends_the_worker_and_another_starts(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path, **SETTINGS, SCORE_STUCK_AFTER_MS="1500") as server:
        first = server.request(method="GET", Accept="application/json").json["serving"]["worker"]
        with pytest.raises((ConnectionError, OSError)):
            server.post({"data": [[1000.0]]})
        deadline = time.monotonic() + 60
        while True:
            try:
                second = server.request(method="GET", Accept="application/json").json["serving"]["worker"]
                break
            except (OSError, ValueError):
                assert time.monotonic() < deadline, server.log
                time.sleep(0.2)
        assert second != first
        assert len(_tried(server)) == 5
        said = server.log.partition("ERROR model_stuck")[2]
        assert re.match(r": a forward pass has run for \d\.\d s, and does not come to an end\n", said)


def test_sigterm_does_not_wait_for_such_a_pass(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path, **SETTINGS) as server:
        assert len(_tried(server)) == 5
        with socket.create_connection(("127.0.0.1", server.port)) as stuck:
            body = b'{"data": [[1000.0]]}'
            stuck.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(6)
            begun = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(20)
        assert time.monotonic() - begun < 15


def test_what_a_client_asked_that_has_left_is_not_run(tmp_path: Path) -> None:
    from tests.real_server import SLOW

    (tmp_path / "model").mkdir()
    torch.save({"one": torch.ones(1)}, tmp_path / "model" / "model.pt")
    (tmp_path / "model" / "slow.py").write_text(SLOW)
    settings = {"SCORE_ARCHITECTURE": "slow.py:Slow", "SCORE_INPUTS": "float32[N, 2]", "SCORE_MAX_BATCH": "1"}
    with running(tmp_path / "model", tmp_path, **settings) as server:
        long = threading.Thread(target=server.post, args=({"data": [[1.5, 1.0]]},))
        long.start()
        time.sleep(0.3)
        body = b'{"data": [[5.0, 1.0]]}'
        for _ in range(8):
            with socket.create_connection(("127.0.0.1", server.port)) as left:
                left.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                time.sleep(0.05)
        begun = time.monotonic()
        assert server.post({"data": [[0.0, 1.0]]}).json["predictions"] == [[1.0, 2.0]]
        assert time.monotonic() - begun < 5  # eight times five seconds were asked for, by nobody
        long.join()
        until(lambda: server.log.count("error=client_gone") == 8)


def test_too_large_bodies_leave_nothing_counted(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "model.pt")
    (tmp_path / "net.py").write_text("from torch import nn\n\ndef Net():\n    return nn.Linear(2, 2)\n")
    settings = {"SCORE_ARCHITECTURE": "net.py:Net", "SCORE_MAX_BODY_MB": "0.1", "SCORE_MAX_HELD_MB": "0.5"}
    with running(tmp_path / "model.pt", tmp_path, **settings) as server:
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", server.port)) as sent:
                sent.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                sent.sendall(b"%x\r\n" % 200_000 + bytes(200_000) + b"\r\n0\r\n\r\n")
                assert b" 413 " in sent.recv(65536)[:20]
        # were it lower than nothing by now, more than the limit would be held at a time
        with socket.create_connection(("127.0.0.1", server.port)):
            assert server.post({"data": [[1.0, 2.0]]}).status == 200
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
        for each in held:
            each.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b" " * 90_000)
        time.sleep(1)
        assert server.request(body=b" " * 80_000 + b'{"data": [[1.0, 2.0]]}').status == 429
        for each in held:
            each.close()
