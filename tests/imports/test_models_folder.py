"""The folder `models/` takes nobody's name: a project's own `models` is found, in pickles and in MLflow's folders."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_server import ROOT, environment

# A project whose package is called `models`, as YOLOv5's and hundreds of others' is.
NET = """
import torch
from torch import nn
from models.common import Block


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block(4, 2)

    def forward(self, x):
        from models.common import double
        return double(self.block(x))
"""
COMMON = """
from torch import nn


class Block(nn.Linear):
    pass


def double(x):
    return x * 2
"""


_CLEAN = {"PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project" / "models").mkdir(parents=True)
    for name, text in {"__init__": "", "yolo": NET, "common": COMMON}.items():
        (tmp_path / "project" / "models" / f"{name}.py").write_text(text)
    script = "import torch; from models.yolo import Model; torch.save(Model(), '../model.pt')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "project", check=True, env=environment() | _CLEAN)
    return tmp_path


def _score(*arguments: str, **settings: str) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).parent / "score"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**settings), cwd="/")


def test_a_trusted_pickle_of_a_package_called_models(project: Path) -> None:
    path = str(project / "project")
    done = _score(
        "check", str(project / "model.pt"), SCORE_TRUST_CODE="true", SCORE_INPUTS="float32[N, 4]", PYTHONPATH=path
    )
    assert done.returncode == 0, done.stderr
    assert "models.yolo.Model" in done.stdout
    assert "ready to serve" in done.stdout


def test_without_trust_it_says_so_and_ours_are_found_all_the_same(project: Path) -> None:
    path = str(project / "project")
    done = _score("check", str(project / "model.pt"), PYTHONPATH=path)
    assert done.returncode == 3
    assert "untrusted_code" in done.stderr
    assert _score("check", str(ROOT / "models"), PYTHONPATH=path).returncode == 3  # no checkpoint in it, and no crash


def test_a_class_of_a_package_called_models_that_is_not_here(project: Path) -> None:
    done = _score("check", str(project / "model.pt"))
    assert done.returncode == 3
    assert "class_not_importable" in done.stderr
    assert "not importable: models.yolo.Model" in done.stderr


def test_the_code_of_an_mlflow_folder(project: Path) -> None:
    folder = project / "logged"
    (folder / "data").mkdir(parents=True)
    (project / "model.pt").rename(folder / "data" / "model.pth")
    (project / "project").rename(folder / "code")
    flavor = "  pytorch:\n    model_data: data\n    pytorch_version: 2.13.0\n    code: code\n"
    (folder / "MLmodel").write_text(f"flavors:\n{flavor}")
    done = _score("check", str(folder), SCORE_TRUST_CODE="true", SCORE_INPUTS="float32[N, 4]")
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("__pycache__"))


def test_a_file_in_the_folder_may_still_say_models() -> None:
    script = (
        "from models import register; import models, loadstone_models; assert models is loadstone_models; "
        "from models.resnet import ResNet; from score.architectures.recognition import registered_models; "
        "assert registered_models()['ResNet'].cls is ResNet"
    )
    for first in ("", "import score; "):
        subprocess.run([sys.executable, "-c", first + script], check=True, cwd="/", env=environment())


def test_a_folder_of_checkpoints_called_models_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    script = "import score; from models import register; assert register.__module__ == 'loadstone_models'"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment())
