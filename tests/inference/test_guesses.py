"""A guess at what a model takes advises, and never forbids; only what was declared refuses."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from score.codecs.base import Body
from score.errors import ModelRejected, WrongInputs, WrongShape
from score.inference.pipeline import infer, load_model
from score.inference.predictor import Predictor
from score.settings import Settings
from tests.architectures import transformers_models as tiny

CLASS = """
import torch

class Sums(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x, mask=None):
        found = self.linear(x)
        if x.dim() == 1:
            return found.sum()[None]
        if mask is not None:
            assert mask.dtype == torch.bool
            found = found * mask[..., None]
        return found
"""


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("sums")
    (folder / "sums.py").write_text(CLASS)
    torch.manual_seed(0)
    linear = torch.nn.Linear(4, 2)
    torch.save({f"linear.{name}": value for name, value in linear.state_dict().items()}, folder / "model.pt")
    settings = Settings.load(folder, device="cpu", architecture=f"{folder}/sums.py:Sums", checkpoint="model.pt")
    found = load_model(settings)
    found.warm_up()
    return found


def ask(predictor: Predictor, inputs: Any) -> Any:
    return json.loads(infer(predictor, Body(json.dumps({"inputs": inputs}).encode())).encoded.body)["predictions"]


def test_a_guess_says_that_it_is_one(predictor: Predictor) -> None:
    assert predictor.signature.guessed
    assert str(predictor.signature).endswith("(a guess, found by trying)")
    assert predictor.card()["signature"]["guessed"] is True


def test_another_shape_is_tried(predictor: Predictor) -> None:
    rows = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    wanted = predictor.module(torch.from_numpy(rows)).tolist()
    np.testing.assert_allclose(ask(predictor, rows.tolist()), wanted, atol=1e-5)
    lone = ask(predictor, rows[0, 0].tolist())
    np.testing.assert_allclose(lone, predictor.module(torch.from_numpy(rows[0, 0])).tolist(), atol=1e-5)


def test_requests_of_another_shape_are_not_put_together(predictor: Predictor) -> None:
    """Vectors of four numbers, all at once: as one batch of rows, each would be part of another's answer."""
    vectors = np.random.default_rng(1).random((32, 4)).astype(np.float32)
    wanted = [predictor.module(torch.from_numpy(vector)).tolist() for vector in vectors]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda vector: ask(predictor, vector.tolist()), vectors))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_booleans_stay_booleans(predictor: Predictor) -> None:
    rows = np.ones((2, 4), np.float32)
    found = ask(predictor, {"x": rows.tolist(), "mask": [True, False]})
    assert found[1] == [0, 0]
    assert found[0] != [0, 0]


def test_what_the_model_rejects_says_what_was_guessed(predictor: Predictor) -> None:
    with pytest.raises(ModelRejected, match="cannot be multiplied") as raised:
        ask(predictor, [[1.0, 2.0, 3.0]])
    assert "x: float32[N, 4]" in raised.value.hint
    assert "SCORE_INPUTS" in raised.value.hint
    with pytest.raises(WrongInputs):  # names are no guess: forward has them
        ask(predictor, {"y": [[1.0, 2.0, 3.0, 4.0]]})
    with pytest.raises(WrongShape, match="expected rows"):
        ask(predictor, [])


def test_what_was_declared_refuses(predictor: Predictor, tmp_path: Path) -> None:
    given = predictor.settings
    settings = Settings.load(
        given.model_dir, device="cpu", architecture=given.architecture, checkpoint="model.pt", inputs="float32[N, 4]"
    )
    declared = load_model(settings)
    assert not declared.signature.guessed
    with pytest.raises(WrongShape, match=r"float32\[N, 4\]"):
        ask(declared, np.zeros((2, 3, 4)).tolist())


@pytest.mark.parametrize(
    "name",
    [
        "BertModel", "T5ForConditionalGeneration", "BartForConditionalGeneration", "WhisperForConditionalGeneration",
        "CLIPModel", "Wav2Vec2ForCTC", "ViTForImageClassification", "ASTModel", "GPT2LMHeadModel",
        "PatchTSTForPrediction", "PatchTSTForClassification", "TimeSeriesTransformerForPrediction",
        "LayoutLMModel", "SpeechT5ForSpeechToText",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("DPTModel", "VideoMAEModel")),
    ],
)  # fmt: skip
def test_models_of_transformers_answer_what_their_forward_needs(name: str, tmp_path: Path) -> None:
    """Their main input and what else they can't do without; with no tokenizer beside them, or for raw tensors."""
    wanted = tiny.saved(tiny.built(name), tmp_path)
    served = load_model(Settings.load(tmp_path, device="cpu", task="tensors"))
    served.warm_up()
    assert served.signature.source == "transformers' forward"
    assert served.signature.known
    assert served.outputs, f"{name} answers nothing that is made up: {served.signature}"
    given = tiny.inputs(wanted)
    answer = tiny.answered(wanted, given)
    found = ask(served, {key: value.tolist() for key, value in given.items()})
    for key, value in answer.items():
        if isinstance(value, torch.Tensor):
            np.testing.assert_allclose(np.asarray(found[key], np.float64), value.double().numpy(), atol=1e-3, rtol=1e-3)
