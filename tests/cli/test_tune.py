"""`score tune`: what a person sees, and what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from score.cli.app import app


def tune(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("score.inference.tuning.timing.MEASURED", 0.01)
    monkeypatch.setattr("score.inference.tuning.trial.COMPARED", 0.1)
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5)), tmp_path / "model.pt")
    return tmp_path / "model.pt"


GIVEN = ("--inputs", "float32[N, 12]", "--only", "bf16,bf16-autocast", "--max-batch", "8")


def test_the_table_has_all_that_was_tried(model: Path) -> None:
    done = tune(model, *GIVEN)
    assert done.exit_code == 0, done.output
    for word in ("eager", "bf16", "bf16-autocast", "times torch", "not within 0.001", "best"):
        assert word in done.stdout
    said = json.loads((model.parent / "model.pt.tuned" / "tuned.json").read_text())
    assert said["backend"] == "eager"
    assert [each["backend"] for each in said["tried"]] == ["eager", "bf16", "bf16-autocast"]


def test_json(model: Path) -> None:
    done = tune(model, *GIVEN, "--json", "--dry-run")
    found = json.loads(done.stdout)
    assert found["best"] == "eager" and found["written"] is None
    assert all(each["top_1"]["rows"] == each["top_1"]["same"] for each in found["tried"][:1])
    assert set(found["tried"][0]["rows_per_second"]) == {"1", "8"}
    assert not (model.parent / "model.pt.tuned").exists()


def test_real_requests_are_what_is_compared(model: Path) -> None:
    requests = model.parent / "requests.jsonl"
    requests.write_text("\n".join(json.dumps({"inputs": [[0.1] * 12] * rows}) for rows in (1, 2, 4)))
    done = tune(model, *GIVEN, "--requests", requests, "--json", "--dry-run")
    assert set(json.loads(done.stdout)["tried"][0]["rows_per_second"]) == {"1", "4"}
    requests.write_text("\n")
    assert "no request" in tune(model, *GIVEN, "--requests", requests).output


def test_a_backend_that_is_not_known_is_named(model: Path) -> None:
    done = tune(model, "--only", "fast")
    assert done.exit_code != 0 and "openvino" in done.output


def test_a_list_of_checksums_that_lacks_the_new_files_is_named(model: Path) -> None:
    from score.weights import checksums

    checksums.write(model.parent, [model])
    done = tune(model, *GIVEN)
    assert "SHA256SUMS does not list" in " ".join(done.stdout.split())
