"""What is pinned, is pinned to the same everywhere."""

import re
import subprocess
import sys
from pathlib import Path

from score import __version__
from tools import version

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
