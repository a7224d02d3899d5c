"""Ready means that a request was answered; what is unknown is said, in the log, on the card and by the settings."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from score.errors import WarmUpFailed
from score.inference.pipeline import load_model
from score.inference.predictor import Predictor
from score.server import startup
from score.settings import Settings
from tests.inference.tasks import tiny

FILE = """
import torch

class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, first, second):
        return first * self.weight + second

class Never(Odd):
    def forward(self, x):
        raise RuntimeError("this model answers nothing")
"""


def loaded(folder: Path, name: str, **settings: Any) -> Predictor:
    (folder / "odd.py").write_text(FILE)
    torch.save({"weight": torch.ones(3)}, folder / "model.pt")
    given = {"architecture": f"{folder}/odd.py:{name}", "device": "cpu", **settings}
    return load_model(Settings.load(folder / "model.pt", **given))


def test_a_model_whose_inputs_are_not_known_says_what_to_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = loaded(tmp_path, "Odd")
    with caplog.at_level(logging.INFO, logger="azmlinfsrv.score"):
        logging.getLogger("azmlinfsrv.score").propagate = True
        predictor.warm_up()
    assert "NO REQUEST HAS BEEN ANSWERED YET" in caplog.text
    assert "SCORE_INPUTS" in predictor.card()["problem"]
    assert "first: float32, second: float32" in predictor.card()["problem"]
    assert "NOT KNOWN TO WORK" in startup.invitation(predictor, "5001")
    assert "ready to serve" not in startup.invitation(predictor, "5001")
    startup.require_an_answer(predictor)  # it is served all the same


def test_a_model_for_which_every_request_fails(tmp_path: Path) -> None:
    predictor = loaded(tmp_path, "Never", inputs="float32[N, 3]", require_warm_up=True)
    predictor.warm_up()
    assert "this model answers nothing" in predictor.card()["problem"]
    with pytest.raises(WarmUpFailed, match="this model answers nothing"):
        startup.require_an_answer(predictor)


def test_a_model_that_has_answered_is_ready(tmp_path: Path) -> None:
    two = {"first": "float32[N, 3]", "second": "float32[N, 3]"}
    predictor = loaded(tmp_path, "Odd", inputs=two, require_warm_up=True)
    predictor.warm_up()
    assert predictor.card()["problem"] is None
    startup.require_an_answer(predictor)
    assert startup.invitation(predictor, "5001").startswith("ready to serve\n\nopen http://127.0.0.1:5001/score\ncurl")


def test_a_task_that_has_answered_is_ready(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tiny.made("text-classification", tmp_path / "model")
    predictor = load_model(Settings.load(folder, device="cpu"))
    predictor.warm_up()
    assert predictor.problem is None
