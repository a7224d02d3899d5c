"""`import score`: in one line what the server does, with the same errors."""

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import score
from models.simple_model import SimpleModel
from score.errors import InvalidSetting, InvalidTopK, MalformedFile, NoWeights, RaggedRows, WrongInputs, WrongShape
from score.inference import library
from tests import makers


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, SimpleModel]:
    torch.manual_seed(4)
    model = SimpleModel().eval()
    torch.save({"epoch": 3, "model": model.state_dict()}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt", model


def test_a_module_in_one_line(checkpoint: tuple[Path, SimpleModel]) -> None:
    path, model = checkpoint
    loaded = score.load(path, device="cpu")
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    rows = torch.rand(3, 10)
    with torch.inference_mode():
        assert torch.equal(loaded(rows), model(rows))


def test_weights_are_brought_in_when_they_are_asked_for(checkpoint: tuple[Path, SimpleModel]) -> None:
    path, model = checkpoint
    weights = score.open_weights(str(path))
    assert set(weights) == set(model.state_dict())
    assert len(weights) == 2
    assert weights.refs["linear.weight"].shape == (2, 10)
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights[name], tensor)
    assert weights["linear.bias"] is not weights["linear.bias"]  # nothing is kept
    with pytest.raises(KeyError):
        weights["linear.none"]


def test_a_damaged_tensor_is_an_error_and_its_neighbour_is_not(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(64.0), "b": torch.ones(64)}, tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    at = content.index(torch.arange(64.0).numpy().tobytes())
    (tmp_path / "model.pt").write_bytes(content[:at] + b"\1" + content[at + 1 :])
    weights = score.open_weights(tmp_path / "model.pt")
    assert weights["b"].sum() == 64
    with pytest.raises(MalformedFile, match="checksum"):
        weights["a"]


@pytest.mark.parametrize(
    "inputs",
    [
        np.ones((2, 10)),
        torch.ones(2, 10, dtype=torch.bfloat16, requires_grad=True),
        [[1] * 10, [1.0] * 10],
        {"x": np.ones((2, 10), np.int64)},
        b'{"data": [[1,1,1,1,1,1,1,1,1,1],[1,1,1,1,1,1,1,1,1,1]]}',
    ],
    ids=["numpy", "torch", "lists", "by name", "a body"],
)
def test_a_predictor_takes_what_people_have(checkpoint: tuple[Path, SimpleModel], inputs: object) -> None:
    path, model = checkpoint
    found = score.Predictor(path, device="cpu")(inputs)
    assert isinstance(found, np.ndarray)
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(torch.ones(2, 10)).numpy(), rtol=1e-6)


def test_top_k_and_labels(checkpoint: tuple[Path, SimpleModel]) -> None:
    path, _ = checkpoint
    predictor = score.Predictor(path, labels=["cat", "dog"])
    rows = predictor(np.ones((3, 10)), top_k=1)
    assert len(rows) == 3
    assert set(rows[0][0]) == {"label", "probability"}
    assert rows[0][0]["label"] in ("cat", "dog")
    body = b'{"inputs": [[1,1,1,1,1,1,1,1,1,1]], "parameters": {"top_k": 1}}'
    assert predictor(body) == predictor(np.ones((1, 10)), top_k=1)  # what a body asks is not lost
    for wrong in (0, True, "x"):
        with pytest.raises(InvalidTopK):
            predictor(np.ones((3, 10)), top_k=wrong)


def test_errors_are_the_servers(checkpoint: tuple[Path, SimpleModel], tmp_path: Path) -> None:
    predictor = score.Predictor(checkpoint[0])
    with pytest.raises(WrongShape, match=r"float32\[N, 10\]"):
        predictor(np.ones((2, 9)))
    with pytest.raises(RaggedRows):
        predictor([[1.0], [1.0, 2.0]])
    with pytest.raises(WrongInputs):
        predictor({"y": np.ones((2, 10))})
    torch.save({"epoch": 1}, tmp_path / "none.pt")
    with pytest.raises(NoWeights):
        score.open_weights(tmp_path / "none.pt")
    with pytest.raises(InvalidSetting, match="did you mean weights"):
        score.load(checkpoint[0], weight="ema")
    with pytest.raises(InvalidSetting, match="SCORE_DEVICE"):
        score.load(checkpoint[0], device="tpu")


def test_the_examples_in_the_docstrings(digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "digits").symlink_to(digits_folder)
    monkeypatch.chdir(tmp_path)
    found = [test for test in doctest.DocTestFinder().find(library, "library") if test.examples]
    assert len(found) == 3
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test, clear_globs=False)
    assert runner.failures == 0


@pytest.mark.parametrize("name", [name for name in makers.MAKERS if name != "aot-inductor"])
def test_every_format_opens_as_a_mapping(name: str, tmp_path: Path) -> None:
    state = makers.MAKERS[name](tmp_path)
    (path,) = tmp_path.iterdir()
    weights = score.open_weights(path)
    assert set(weights) == set(state)
    assert all(torch.equal(weights[key], value) for key, value in state.items())


def test_a_program_whose_weights_can_not_be_read_is_no_empty_mapping(tmp_path: Path) -> None:
    makers.MAKERS["aot-inductor"](tmp_path)
    with pytest.raises(NoWeights, match="without running it"):
        score.open_weights(tmp_path)


def test_importing_it_imports_no_torch() -> None:
    script = "import sys, score; score.__version__; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
