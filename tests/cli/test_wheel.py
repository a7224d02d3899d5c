"""The wheel: what it holds, and that it works where there is no repository."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from models.simple_model import SimpleModel
from tests.real_server import ROOT, environment


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as a stranger's pip would, and unpacked where nothing else is."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("score", "models"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "deployment.yml"):
        shutil.copyfile(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=folder / "source", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def score(unpacked: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command, run from the wheel's files."""
    script = (
        "import sys, score, loadstone_models; "
        f"assert all(m.__file__.startswith({str(unpacked)!r}) for m in (score, loadstone_models)); "
        "from score.cli.app import app; app()"
    )
    command = [sys.executable, "-c", script, *arguments]
    environ = environment(PYTHONPATH=str(unpacked))
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environ)


def test_what_is_not_code_is_in_it(unpacked: Path) -> None:
    for name in (
        "score/py.typed",
        "score/cli/deployment.yml",
        "score/cli/templates/checkpoint.html",
        "score/server/templates/page.js",
        "score/architectures/fingerprints.json.gz",
        "loadstone_models/resnet.py",
    ):
        assert (unpacked / name).is_file(), name


@pytest.mark.parametrize("command", ["check", "package", "inspect"])
def test_commands_work_without_the_repository(unpacked: Path, command: str, tmp_path: Path) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    more = {"package": ["-o", "out"], "inspect": ["--html", "page.html"], "check": []}[command]
    done = score(unpacked, command, "model.pt", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if command == "package":
        assert yaml.safe_load((tmp_path / "out" / "deployment.yml").read_text())["model"]["path"] == "model"
        assert (tmp_path / "out" / "request.json").is_file()
