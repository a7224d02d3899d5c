"""The versions a checkpoint says it was written with, beside those here."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.simple_model import SimpleModel
from score.errors import WeightsMismatch
from score.inference.pipeline import load_model
from score.settings import Settings
from score.weights import versions
from tests.cli.test_commands import score

HERE = torch.__version__.partition("+")[0]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"pytorch-lightning_version": "1.9.0", "epoch": 3}, {"pytorch-lightning": "1.9.0"}),
        ({"transformers_version": "4.30.2"}, {"transformers": "4.30.2"}),
        ({"env": {"torch": "2.0.1+cu118", "Python": "3.10.12"}}, {"torch": "2.0.1", "python": "3.10.12"}),
        ({"requirements_not_met": ["torch==1.13.1 (here 2.13.0)", "pandas==1.5 (not installed)"]}, {"torch": "1.13.1"}),
        ({"torch_version": "v2.4.0.dev20240601"}, {"torch": "2.4.0"}),
        ({"torch_version": "2.1.0", "versions": {"torch": "1.0.0"}}, {"torch": "2.1.0"}),
        ({"torch": 2.1, "python": "train.py", "numpy": None, "version": "3"}, {}),
        ({"a": {"b": {"c": {"d": {"torch": "1.0.0"}}}}}, {}),
    ],
)
def test_versions_are_found_wherever_trainers_leave_them(metadata: dict[str, Any], expected: dict[str, str]) -> None:
    assert versions.written_by(metadata) == expected


def test_only_other_major_or_minor_versions_differ() -> None:
    major, minor, patch = HERE.split(".")
    assert versions.differences({"torch": f"{major}.{minor}.{int(patch) + 1}"}) == []
    (older,) = versions.differences({"torch": "1.13.1"})
    assert (older.newer, older.pin) == (False, "torch==1.13.1")
    (newer,) = versions.differences({"torch": f"{major}.{int(minor) + 1}.0"})
    assert newer.newer
    (python,) = versions.differences({"python_version": "3.99.1"})
    assert "python=3.99 in conda.yml" in python.pin
    (absent,) = versions.differences({"timm": "0.9.2"})
    assert absent.here is None
    assert "not installed" in str(absent)


def test_check_warns_of_a_newer_writer_with_the_pin(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": SimpleModel().state_dict(), "torch_version": "9.1.0", "numpy": "1.20.0"}, tmp_path / "m.pt"
    )
    done = score("check", tmp_path)
    assert done.exit_code == 0, done.output
    assert f"written with torch 9.1.0, here {HERE}; to have the same, pin torch==9.1.0" in done.output
    numpy = importlib.metadata.version("numpy")
    assert f"written with numpy 1.20.0, here {numpy}\n" in done.output


def test_a_load_error_says_which_version_wrote_the_file(tmp_path: Path) -> None:
    torch.save({"state_dict": SimpleModel().state_dict(), "torch_version": "9.1.0"}, tmp_path / "m.pt")
    settings = Settings.load(tmp_path, architecture="DigitsCNN")
    with pytest.raises(WeightsMismatch) as caught:
        load_model(settings)
    assert "written with torch 9.1.0" in caught.value.detail
    assert "pin torch==9.1.0" in caught.value.detail


def test_transformers_and_mlflow_say_theirs(tmp_path: Path) -> None:
    np.savez(tmp_path / "unrelated.npz", a=np.zeros(2))  # several kinds of metadata go through the same door
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "bert", "transformers_version": "99.0.0"}))
    torch.save(SimpleModel().state_dict(), tmp_path / "hf" / "pytorch_model.bin")
    done = score("inspect", tmp_path / "hf", "--json")
    assert versions.written_by(json.loads(done.stdout)["metadata"]) == {"transformers": "99.0.0"}
