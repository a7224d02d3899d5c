"""What is pinned, is pinned to the same everywhere."""

import re
import subprocess
import sys
import types
from pathlib import Path

import numpy
import pytest
import torch

from score import __version__, checkpoint
from score.formats import registry
from score.model_dir import find_checkpoint
from score.settings import Settings
from tools import version
from tools.readme import README, updated

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^[A-Za-z0-9._-]+==[0-9][\w.]*$")


def pins(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def test_the_lock_pins_every_package_exactly() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert all(PIN.match(line) for line in pins(name)), name
    locked = dict(line.split("==") for line in pins("requirements.lock"))
    assert locked["torch"] == "2.13.0"
    assert locked["azureml-inference-server-http"] == "1.5.1"
    assert "gunicorn" in locked
    assert not set(locked) & {line.split("==")[0] for line in pins("requirements-dev.lock")}


def test_conda_yml_has_the_same_pins() -> None:
    text = (ROOT / "conda.yml").read_text()
    inner = re.findall(r"^      - (\S+)$", text, re.M)
    assert inner == pins("requirements.lock")
    assert "python=3.11" in text


def test_what_is_installed_is_what_is_locked() -> None:
    frozen = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    installed = {re.sub(r"\+\w+$", "", line).lower() for line in frozen.splitlines()}
    missing = [line for line in pins("requirements.lock") if line.lower() not in installed]
    assert not missing


def test_the_version_is_the_same_everywhere() -> None:
    for file in version.files():
        assert version.updated(file.read_text()) == file.read_text(), f"{file}: run python -m tools.version"
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert version.updated("ARG VERSION=9.8.7\nimage: a/loadstone:9.8.7-cpu") == (
        f"ARG VERSION={__version__}\nimage: a/loadstone:{__version__}-cpu"
    )


def test_the_readme_lists_the_settings_as_they_are() -> None:
    text = README.read_text()
    assert updated(text) == text


def test_the_format_in_contributing_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert code
    module = types.ModuleType("raw")
    exec(code[1], vars(module))
    known = {**registry.formats(), module.NAME: module}
    monkeypatch.setattr(registry, "formats", lambda: known)
    numpy.eye(3, 4, dtype=numpy.float32).tofile(tmp_path / "weights.f32")
    (tmp_path / "shape.json").write_text("[3, 4]")
    found = find_checkpoint(Settings.load(tmp_path))
    assert found.format == "raw"
    weights = checkpoint.weights_of(registry.open_checkpoint(found.path))
    assert weights is not None
    assert weights.tensors["weight"].load().equal(torch.eye(3, 4))
