"""Where the tensors of a task are: on the CPU until a batch has been put together, then where the model is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score.codecs.base import Body
from score.formats.base import Beside
from score.inference import staging
from score.inference.batching.padded import Padded
from score.inference.batching.queue import Limits
from score.inference.batching.ticket import Pass
from score.inference.pipeline import infer, load_model
from score.inference.tasks import parts
from score.inference.tasks.batched import Batched
from score.inference.tasks.of_transformers import Piped
from score.settings import Settings
from tests.inference.tasks import tiny
from tests.inference.test_staging import Device

transformers = pytest.importorskip("transformers")
LIMITS = Limits(rows=8, requests=8, seconds=10.0)
ELSEWHERE = torch.device("meta")


class Submitted:
    """A batcher that keeps what it is given, and answers with two classes."""

    def __init__(self) -> None:
        self.inputs: list[Mapping[str, Any]] = []

    def submit(self, inputs: Mapping[str, Any]) -> tuple[Any, Pass]:
        self.inputs.append(inputs)
        return {"logits": np.zeros((1, 2), np.float32)}, Pass(0.0, 0.0, 1, 1)


def test_a_pipeline_sends_nothing_to_the_models_device_by_itself(tmp_path: Path) -> None:
    folder = tiny.made("text-classification", tmp_path / "model")
    module = transformers.AutoModelForSequenceClassification.from_pretrained(folder).to(ELSEWHERE)
    batched = Batched(module, LIMITS, 1e-3, Padded())
    assert batched.device == ELSEWHERE
    answer = Piped("text-classification", batched, parts.read(folder, Beside()))
    batched.batcher = submitted = Submitted()  # type: ignore[assignment]
    batched._kind = dict
    assert answer("a fine day", {})["score"] == pytest.approx(0.5)
    (given,) = submitted.inputs
    tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
    assert tensors and all(value.device.type == "cpu" for value in tensors)


class Generator(nn.Module):
    """Says where what it is given is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, device=ELSEWHERE))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids

    def generate(self, input_ids: torch.Tensor, *, mask: torch.Tensor, most: int) -> list[Any]:
        return [input_ids.device, mask.device, most]


def test_what_generates_is_given_its_inputs_where_it_is() -> None:
    batched = Batched(Generator(), LIMITS, 1e-3, Padded())
    tokens = torch.ones(1, 3, dtype=torch.long)
    assert batched.generate(tokens, mask=tokens, most=2) == [ELSEWHERE, ELSEWHERE, 2]
    batched.batcher.close()


TEXTS = {"inputs": [" ".join(tiny.WORDS[: 3 + at]) for at in range(24)]}


def answered(folder: Path, **said: Any) -> tuple[Any, Pass]:
    """The answers to texts of 24 lengths in one request, and what their passes were."""
    predictor = load_model(Settings.load(folder, **said))
    predictor.warm_up()
    found = infer(predictor, Body(json.dumps(TEXTS).encode()))
    predictor.close()
    return json.loads(found.encoded.body), found.took


def test_texts_are_put_together_here_and_begun_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.made("text-classification", tmp_path / "model")
    wanted, _ = answered(folder, device="cpu")
    device = Device()
    monkeypatch.setattr(staging, "lane_to", lambda _: device)
    found, took = answered(folder, device="cpu")
    assert took.batch_rows > 1 and f"up {took.batch_rows}" in device.log
    assert_same(found, wanted)


@pytest.mark.gpu
def test_texts_are_answered_together_on_a_gpu(tmp_path: Path) -> None:
    folder = tiny.made("text-classification", tmp_path / "model")
    found, took = answered(folder, device="cuda")
    assert took.batch_rows > 1
    assert_same(found, answered(folder, device="cpu")[0])


def assert_same(found: Any, wanted: Any) -> None:
    assert [each["label"] for each in found] == [each["label"] for each in wanted]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in wanted], abs=1e-3)
