"""Every setting is an option of the commands that load a model, and says what the environment variable would."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from models.simple_model import SimpleModel
from score.cli import serve
from score.cli.app import app
from score.errors import PortTaken, PortUnusable
from score.settings import Settings, option
from score.weights.hashing import file_sha256

CODE = """
import torch

class Own(torch.nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.fc = torch.nn.Linear(4, size)

    def forward(self, x):
        return self.fc(x)
"""


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("command", ["check", "serve", "predict", "package"])
def test_no_setting_is_forgotten(command: str) -> None:
    import typer

    group = typer.main.get_command(app)
    options = {name for parameter in group.commands[command].params for name in parameter.opts}  # type: ignore[attr-defined]
    for name in Settings.model_fields:
        assert name == "model_dir" or option(name) in options, name


def test_arguments_trust_and_architecture(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(CODE)
    torch.save({"fc.weight": torch.ones(5, 4), "fc.bias": torch.zeros(5)}, tmp_path / "model.pt")
    by_name = ("--architecture", f"{tmp_path}/own.py:Own", "--kwargs", "size=5")
    assert run("check", tmp_path / "model.pt", *by_name).exit_code == 0
    digest = file_sha256(tmp_path / "own.py")
    for trusted in (tmp_path / "own.py", digest, f"sha256:{digest}"):
        done = run("check", tmp_path / "model.pt", "--trust", trusted, "--kwargs", '{"size": 5}')
        assert done.exit_code == 0, done.output
        assert "a trusted file beside the checkpoint" in done.output
    (tmp_path / "request.json").write_text(json.dumps({"data": [[1, 2, 3, 4]]}))
    done = run("predict", tmp_path / "request.json", "--model", tmp_path / "model.pt", *by_name)
    assert json.loads(done.output) == {"predictions": [[10.0] * 5]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--kwargs", "size"), "is not NAME=VALUE"),
        (("--kwargs", "{size"), "is not JSON"),
        (("--trust", "nothing.py"), "there is no file nothing.py"),
        (("--device", "gpu"), "SCORE_DEVICE='gpu'"),
        (("--max-batch", "many"), "SCORE_MAX_BATCH='many'"),
    ],
)
def test_a_wrong_option_is_named(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    done = run("check", tmp_path / "model.pt", *words)
    assert done.exit_code in (2, 3)
    assert says in " ".join(done.output.split())


def test_a_port_in_use_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", tmp_path / "model.pt", "--port", port, "--host", "127.0.0.1")
    assert done.exit_code == 3
    assert f"ERROR port_taken: something listens on port {port} already" in done.output
    assert f"--port {port + 1}" in done.output


def test_an_address_that_is_not_here() -> None:
    with pytest.raises(PortUnusable, match=r"203\.0\.113\.1"):
        serve.refuse_taken("203.0.113.1", 5001)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTaken):
        serve.refuse_taken("127.0.0.1", taken.getsockname()[1])


def test_this_machine_alone_unless_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _path, words: started.append(words))
    monkeypatch.setattr("os.chdir", lambda _path: None)
    for name in ("AML_APP_ROOT", "PYTHONUNBUFFERED", "GUNICORN_CMD_ARGS", "LOADSTONE_LOCAL", "SCORE_MAX_BATCH"):
        monkeypatch.setenv(name, "")  # and so it is as it was afterwards
    monkeypatch.setenv("AZUREML_MODEL_DIR", "")
    import os

    monkeypatch.setattr(serve, "_in_container", lambda: False)
    assert run("serve", tmp_path / "model.pt", "--port", "5077", "--max-batch", "7").exit_code == 0
    assert "--bind 127.0.0.1:5077" in os.environ["GUNICORN_CMD_ARGS"]
    assert "score.server.local" in started[0]
    assert os.environ["SCORE_MAX_BATCH"] == "7"
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "")
    monkeypatch.setattr(serve, "_in_container", lambda: True)
    assert run("serve", tmp_path / "model.pt", "--port", "5077", "--verbose").exit_code == 0
    assert "--bind" not in os.environ["GUNICORN_CMD_ARGS"]
    assert started[1][0].endswith("azmlinfsrv")
    assert run("serve", tmp_path / "model.pt", "--port", "5077", "--host", "127.0.0.1").exit_code == 0
    assert "--bind 127.0.0.1:5077" in os.environ["GUNICORN_CMD_ARGS"]
