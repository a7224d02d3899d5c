"""What machines read is as it was: keys, codes, settings and descriptions, held against those of an earlier version.

`tests/golden/` was written by the version before the packages were drawn. A difference here is a change of what users
rely on: if it is meant, change the file by hand, and say it in CHANGELOG.md.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from models.simple_model import SimpleModel
from score.errors import every_error
from score.settings import Settings, variable
from tests import makers
from tests.real_server import environment, running

GOLDEN = Path(__file__).with_name("golden")
# What differs from file to file and from machine to machine.
VARIES = {"path", "bytes", "sha256", "seconds", "gb_per_s", "versions", "worker", "confined", "device", "uptime_s"}


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def scrubbed(value: Any) -> Any:
    """Without what varies: its place is kept, so that a key that is gone shows."""
    if isinstance(value, Mapping):
        return {key: "..." if key in VARIES else scrubbed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scrubbed(item) for item in value]
    return re.sub(r"(/[\w.\-]+){2,}", "/...", value) if isinstance(value, str) else value


def inspected(folder: Path, name: str) -> Any:
    """What `score inspect --json` says of a file of a format."""
    (folder / name).mkdir()
    makers.MAKERS[name](folder / name)
    (path,) = (folder / name).iterdir()
    done = subprocess.run(
        [sys.executable, "-m", "score.cli.app", "inspect", path, "--json"], capture_output=True, env=environment()
    )
    return scrubbed(json.loads(done.stdout)) | {"exit code": done.returncode}


@pytest.mark.parametrize("name", ["torch-zip", "torchscript", "hf-dir", "mlflow", "pickle"])
def test_inspect(name: str, tmp_path: Path) -> None:
    found = inspected(tmp_path, name)
    assert found == golden("inspect")[name]
    assert list(found) == list(golden("inspect")[name])  # the order, too


@pytest.mark.slow
@pytest.mark.parametrize("name", makers.MAKERS)
def test_inspect_every_format(name: str, tmp_path: Path) -> None:
    assert inspected(tmp_path, name) == golden("inspect")[name]


def test_the_card_and_the_description(tmp_path: Path) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    with running(tmp_path / "model.pt", tmp_path) as server:
        card = server.request("/score", method="GET").json
        described = server.request("/swagger.json?version=3", method="GET").json
    assert scrubbed(card) == golden("card")
    assert described == golden("openapi")


def test_the_settings() -> None:
    fields = {variable(name): repr(field.default) for name, field in Settings.model_fields.items()}
    assert {name: fields.get(name) for name in golden("settings")} == golden("settings")


def test_the_codes_of_errors() -> None:
    codes = {kind.code: kind.status for kind in every_error()}
    assert {code: codes.get(code) for code in golden("errors")} == golden("errors")
