"""What a model takes, found by trying; and models that can't be found out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score.errors import ModelRejected
from score.inference import infer_signature, outputs
from score.inference.signature import validate


class Flattening(nn.Module):
    """Takes 28 x 28 images, and flattens them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.dim() == 4
        result: torch.Tensor = self.net(image)
        return result


class Attention(nn.Module):
    """Starts with a linear layer, and mixes what is not the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(self.embed(tokens))
        return result


class Tagger(nn.Module):
    """Token ids in, scores for each token out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        result: tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]] = self.lstm(self.embedding(ids))
        return result


class TwoInputs(nn.Module):
    """Takes a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        result: torch.Tensor = (self.a(left) - self.a(right)) * scale
        return result


def cnn(side: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * side * side, 2))


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        (nn.Linear(10, 2), "float32[N, 10]"),
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU()), "float32[N, 5]"),
        (nn.Linear(5, 4).double(), "float64[N, 5]"),
        (cnn(32), "float32[N, 3, 32, 32]"),
        (cnn(28), "float32[N, 3, 28, 28]"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1)), "float32[N, 1, ?, ?]"),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1)), "float32[N, 2, ?]"),
        (nn.Conv2d(8, 8, 3, groups=4), "float32[N, 8, ?, ?]"),
        (Flattening(), "float32[N, 1, 28, 28]"),
        (Attention(), "float32[N, ?, 6]"),
        (nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(32, 2)), "int64[N, 8]"),
        (nn.GRU(3, 4, batch_first=True), "float32[N, ?, 3]"),
    ],
)
def test_what_a_model_takes_is_found(model: nn.Module, takes: str) -> None:
    signature = infer_signature.find(model.eval(), None, "")
    assert str(signature.inputs[0]) == takes
    assert signature.source == "found by trying"
    assert signature.known


def test_a_batch_that_is_not_first_is_not_mistaken_for_one() -> None:
    # batch_first=False: the rows of what looks like a batch are one sequence
    signature = infer_signature.find(nn.LSTM(3, 4).eval(), None, "")
    assert not signature.known


def test_a_pair_keeps_its_names_and_has_no_shapes() -> None:
    model = TwoInputs().eval()
    signature = infer_signature.find(model, None, "")
    assert [(spec.name, spec.required) for spec in signature.inputs] == [
        ("left", True),
        ("right", True),
        ("scale", False),
    ]
    assert not signature.known
    given = {"right": np.ones((2, 3)), "left": np.zeros((2, 3))}
    answer = outputs.arrays(infer_signature.call(model, validate(signature, given), infer_signature.input_names(model)))
    with torch.inference_mode():
        wanted = model(torch.zeros(2, 3), torch.ones(2, 3))
    np.testing.assert_allclose(answer, wanted.numpy())


def test_a_declared_signature_is_not_tried() -> None:
    signature = infer_signature.find(TwoInputs(), {"left": "float32[N, 3]", "right": "float32[N, 3]"}, "SCORE_INPUTS")
    assert signature.known
    assert signature.source == "SCORE_INPUTS"
    assert set(infer_signature.synthetic(signature, rows=4)) == {"left", "right"}
    assert infer_signature.synthetic(signature, rows=4)["left"].shape == (4, 3)  # type: ignore[union-attr]


def test_torchscript_says_which_inputs_are_python_values() -> None:
    class Rated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, rate: int, note: torch.Tensor | None = None) -> torch.Tensor:
            result: torch.Tensor = self.a(x) * rate
            return result

    scripted: Any = torch.jit.script(Rated())
    signature = infer_signature.find(scripted, None, "")
    assert [(spec.name, spec.dtype, spec.required) for spec in signature.inputs] == [
        ("x", "float32", True), ("rate", "py_int", True), ("note", "float32", False),
    ]  # fmt: skip
    inputs = validate(signature, {"x": np.ones((1, 3)), "rate": np.asarray(2)})
    assert infer_signature.call(scripted, inputs, infer_signature.input_names(scripted)).shape == (1, 2)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.ones(2, dtype=torch.bfloat16), None),
        ((torch.ones(2),), None),
        ({"a": torch.ones(2), "b": {"c": torch.ones(1)}}, ["a", "b.c"]),
        ((torch.ones(2), (torch.ones(1), torch.ones(1))), ["output_0", "output_1_0", "output_1_1"]),
        ({"loss": 1.5, "flag": True}, ["loss", "flag"]),
    ],
)
def test_outputs_become_arrays_by_name(value: Any, named: list[str] | None) -> None:
    found = outputs.arrays(value)
    assert isinstance(found, np.ndarray) if named is None else list(found) == named


def test_outputs_that_numpy_does_not_know() -> None:
    assert outputs.array(torch.tensor([1.5], dtype=torch.bfloat16)).dtype == np.float32
    assert outputs.array(torch.tensor([1 + 2j])).tolist() == [[1.0, 2.0]]
    assert outputs.array(torch.eye(2).to_sparse()).tolist() == [[1, 0], [0, 1]]
    assert outputs.array(torch.ones(3, 2).t()).flags["C_CONTIGUOUS"]
    assert outputs.array(torch.tensor(2.0)).shape == ()
    with pytest.raises(ModelRejected, match="returned a NoneType"):
        outputs.arrays(None)
