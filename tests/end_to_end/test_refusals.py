"""When it can't serve it says why: the same in the server's log, as its last lines, and on the command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.simple_model import SimpleModel
from tests.real_server import environment, refused, running


def _truncated(folder: Path) -> None:
    torch.save(SimpleModel().state_dict(), folder / "model.pt")
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])


def _mismatched(folder: Path) -> None:
    state = SimpleModel().state_dict()
    torch.save({"lin.weight": state["linear.weight"], "linear.bias": torch.zeros(3)}, folder / "model.pt")


CASES: dict[str, tuple[Callable[[Path], object], dict[str, str], str, str]] = {
    "several": (
        lambda folder: torch.save({name: SimpleModel().state_dict() for name in ("one", "two")}, folder / "model.pt"),
        {}, "several_weights", "SCORE_WEIGHTS",
    ),
    "truncated": (_truncated, {}, "truncated_file", "copied whole"),
    "mismatch": (_mismatched, {"SCORE_ARCHITECTURE": "SimpleModel"}, "weights_mismatch", "another class"),
    "no such gpu": (
        lambda folder: torch.save(SimpleModel().state_dict(), folder / "model.pt"),
        {"SCORE_DEVICE": "cuda:99"}, "device_unavailable", "SCORE_DEVICE",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "mismatch" else pytest.mark.slow) for name in CASES]
)
def test_the_log_ends_with_the_diagnosis_that_the_command_line_shows(name: str, tmp_path: Path) -> None:
    make, settings, code, hint = CASES[name]
    model, logs = tmp_path / "model", tmp_path / "logs"
    model.mkdir()
    logs.mkdir()
    make(model)
    status, log = refused(model, logs, **settings)
    assert status == 3
    assert "Traceback" not in log.partition("Invoking user's init function")[2]
    command = [Path(sys.executable).parent / "score", "check", model]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment(**settings))
    assert shown.returncode == 3
    assert shown.stderr.startswith(f"ERROR {code}: ")
    assert hint in shown.stderr
    assert shown.stderr.strip() in log
    assert log.rstrip().endswith(shown.stderr.strip())
    assert len(shown.stderr.splitlines()) <= 40


def test_the_diagnosis_over_http_is_the_same(tmp_path: Path) -> None:
    model, logs = tmp_path / "model", tmp_path / "logs"
    model.mkdir()
    logs.mkdir()
    _mismatched(model)
    settings = {"SCORE_ARCHITECTURE": "SimpleModel", "SCORE_ON_LOAD_ERROR": "serve"}
    command = [Path(sys.executable).parent / "score", "check", model]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment(**settings)).stderr.strip()
    with running(model, logs, **settings) as server:
        for answer in (server.request(method="GET"), server.post({"data": [[1.0] * 10]})):
            assert answer.status == 503
            error = answer.json["error"]
            detail = "".join(f"  {line}\n" for line in error["detail"].splitlines())
            more = f"More: {error['docs']}"
            assert f"ERROR {error['code']}: {error['message']}\n{detail}What to do: {error['hint']}\n{more}" == shown
        assert shown in server.log
