"""How gunicorn is run: the addresses, and what its log leaves out."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from score.errors import LoadError
from score.server import gunicorn_config


@pytest.mark.parametrize(
    ("arguments", "ipv6", "wanted"),
    [
        ("", True, ["[::]:5001"]),
        ("", False, ["0.0.0.0:5001"]),
        ("--threads 4 --bind 127.0.0.1:80 -b unix:/tmp/s", True, ["127.0.0.1:80", "unix:/tmp/s"]),
    ],
)
def test_where_it_listens(arguments: str, ipv6: bool, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
    monkeypatch.setattr(gunicorn_config, "_has_ipv6", lambda: ipv6)
    given = {"bind": ["0.0.0.0:5001"]}
    settings = {"bind": SimpleNamespace(get=lambda: given["bind"])}
    server = SimpleNamespace(cfg=SimpleNamespace(settings=settings, set=given.__setitem__, workers=1))
    gunicorn_config.on_starting(server)
    assert given["bind"] == wanted


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, 4),
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"SCORE_DEVICE": "cuda"}, 4),
        ({"SCORE_DEVICE": "cuda:1"}, 0),
        ({"SCORE_DEVICE": "cpu"}, 0),
    ],
)
def test_gpus_are_counted_without_cuda(environ: dict[str, str], wanted: int, tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gunicorn_config.visible_gpus(environ, tmp_path) == wanted


def test_one_worker_a_gpu_each_bound_by_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, int] = {}
    monkeypatch.delenv("WORKER_COUNT", raising=False)
    monkeypatch.setattr(gunicorn_config, "visible_gpus", lambda: 4)
    cfg = SimpleNamespace(workers=1, set=made.__setitem__)
    gunicorn_config._prepare_workers(cfg)
    assert made == {"workers": 4}
    monkeypatch.setenv("WORKER_COUNT", "1")
    made.clear()
    gunicorn_config._prepare_workers(cfg)
    assert not made

    server = SimpleNamespace(WORKERS={}, cfg=SimpleNamespace(workers=4))
    for pid in range(4):
        worker = SimpleNamespace()
        gunicorn_config.pre_fork(server, worker)
        server.WORKERS[pid] = worker
    assert [worker.rank for worker in server.WORKERS.values()] == [0, 1, 2, 3]
    del server.WORKERS[2]  # it has ended
    another = SimpleNamespace()
    gunicorn_config.pre_fork(server, another)
    assert another.rank == 2
    monkeypatch.delenv("LOADSTONE_RANK", raising=False)
    monkeypatch.delenv("LOADSTONE_LOCAL", raising=False)
    gunicorn_config.post_fork(server, another)
    assert os.environ.pop("LOADSTONE_RANK") == "2"


def test_after_a_failed_start_the_diagnosis_is_last(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("gunicorn.glogging.Logger.__init__", lambda self, cfg: None)
    monkeypatch.setattr("gunicorn.glogging.Logger.error", lambda self, msg, *args, **kwargs: said.append(msg))
    monkeypatch.setattr("gunicorn.glogging.Logger.access", lambda self, *args: said.append("access"))
    log: Any = gunicorn_config.Log(None)
    log.error("something else")
    log.error("Worker (pid:%s) exited with code %s", 7, LoadError.exit_code)
    log.error("Shutting down: Master")
    assert said == ["something else"]
    log.access(None, None, {"PATH_INFO": "/score"}, None)
    log.access(None, None, {"PATH_INFO": "/"}, None)
    assert said == ["something else", "access"]


@pytest.mark.parametrize(
    ("environ", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_of_a_pass_spin_from_layer_to_layer_and_no_longer(environ: dict[str, str], spins: str) -> None:
    shown = "import os, score.server.gunicorn_config; print(os.environ.get('GOMP_SPINCOUNT'))"
    others = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", shown], env=others | environ, capture_output=True, text=True)
    assert done.stdout.strip() == spins, done.stderr
