"""What the start says, and how a failed one ends."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.simple_model import SimpleModel
from score.errors import ArchitectureUndecided, LoadError, NoTemporaryFolder
from score.inference.predictor import Predictor
from score.server import startup
from score.server.service import Service
from tests.real_server import environment


def test_a_start_is_told_for_people_and_for_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    with caplog.at_level(logging.INFO, "azmlinfsrv.score"):
        (service,) = startup.started().loaded()
    assert service.predictor(np.ones((1, 10))).shape == (1, 2)
    assert "architecture SimpleModel (recognised by keys and shapes)" in caplog.text
    (report,) = [line for line in caplog.messages if line.startswith("load report ")]
    assert json.loads(report.removeprefix("load report "))["tensors"] == 2
    assert 'curl -s http://127.0.0.1:5001/score -d \'{"data": [[' in caplog.text
    assert "requests are answered in batches" in caplog.text


def test_a_failed_start_ends_with_3_and_the_diagnosis_last(tmp_path: Path) -> None:
    script = "import logging; logging.basicConfig(); from score.server import startup; startup.started()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(AZUREML_MODEL_DIR=str(tmp_path))
    )
    assert done.returncode == LoadError.exit_code
    assert done.stderr.splitlines()[-1].startswith("More: score explain model_dir_empty")


def test_it_may_stay_up_to_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a.weight": torch.ones(3, 3)}, tmp_path / "model.pt")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("SCORE_ON_LOAD_ERROR", "serve")
    (service,) = startup.started().loaded()
    with pytest.raises(ArchitectureUndecided):
        _ = service.predictor.settings
    with pytest.raises(ArchitectureUndecided):
        service.card()


def test_a_folder_for_temporary_files_that_can_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    startup.require_temporary_folder()
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with pytest.raises(NoTemporaryFolder, match="/nowhere"):
        startup.require_temporary_folder()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ("float32[N, 3]", """-d '{"data": [["""),
        ("int64[N, 2]", """{"data": [[0,0]]}"""),
        ("float32[N, 3, 224, 224]", "numpy.full([1, 3, 224, 224], 0.5)"),
        ({"a": "float32[N, 2]", "b": "float32[N, 2]"}, "curl -s http://127.0.0.1:7000/score"),
    ],
    ids=["small", "integers", "large", "several"],
)
def test_the_command_to_paste(inputs: str | dict[str, str], says: str, service: Service) -> None:
    class Any(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            return a

    settings = service.predictor.settings.model_copy(update={"inputs": inputs})
    assert says in startup.curl(Predictor(Any(), service.predictor.report, settings), "7000")
