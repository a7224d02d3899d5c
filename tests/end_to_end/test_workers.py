"""Several workers: what they count, they count together."""

import os
import re
import signal
from pathlib import Path

import torch

from models.simple_model import SimpleModel
from tests.real_server import Server, running, until

ASKED = 60


def counted(server: Server, name: str) -> float:
    text = server.request("/metrics", method="GET").body.decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))


def test_counters_of_all_workers_and_of_those_that_have_ended(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    torch.save(SimpleModel().state_dict(), tmp_path / "model" / "model.pt")
    with running(tmp_path / "model", tmp_path, WORKER_COUNT="2", TMPDIR=str(tmp_path)) as server:
        until(lambda: counted(server, "loadstone_model_loaded") == 2)
        workers = set()
        for _ in range(ASKED):
            assert server.post({"data": [[1.0] * 10]}).status == 200
            workers.add(server.request(method="GET").json["serving"]["worker"])
        assert counted(server, "nv_inference_request_success") == ASKED
        assert len(workers) == 2
        os.kill(workers.pop(), signal.SIGKILL)
        until(lambda: counted(server, "loadstone_model_loaded") == 2)  # another is there
        assert counted(server, "nv_inference_request_success") == ASKED
    assert not list(tmp_path.glob("loadstone-*"))
