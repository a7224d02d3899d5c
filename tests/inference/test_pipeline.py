"""The two ways through the product, without HTTP."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.simple_model import SimpleModel
from score.codecs.base import Body
from score.errors import ArchitectureBroken, InvalidTopK, WeightsMismatch
from score.formats import registry
from score.inference.pipeline import infer, load_model
from score.inference.predictor import Predictor
from score.settings import Settings

ROWS = np.ones((2, 10), np.float32)


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    torch.manual_seed(2)
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    return load_model(Settings.load(tmp_path / "model.pt", labels="cat,dog"))


def npy() -> Body:
    content = io.BytesIO()
    np.save(content, ROWS)
    return Body(content.getvalue(), "application/x-npy")


def test_the_answer_mirrors_the_request(predictor: Predictor) -> None:
    wanted = predictor(ROWS)
    found = infer(predictor, Body(json.dumps({"instances": ROWS.tolist()}).encode()))
    np.testing.assert_allclose(json.loads(found.encoded.body)["predictions"], wanted, rtol=1e-6)
    assert (found.prepared.codec.NAME, found.took.rows) == ("json", 2)
    binary = infer(predictor, npy())
    assert np.array_equal(np.load(io.BytesIO(binary.encoded.body)), wanted)


def test_accept_and_top_k(predictor: Predictor) -> None:
    found = infer(predictor, npy(), accept="application/json")
    assert found.encoded.content_type == "application/json"
    for top_k in (1, "1"):
        labelled = json.loads(infer(predictor, npy(), top_k=top_k).encoded.body)
        assert labelled["predictions"][0][0]["label"] in ("cat", "dog")
    for wrong in (0, -1, "x", 1.5, True, "²"):
        with pytest.raises(InvalidTopK):
            infer(predictor, npy(), top_k=wrong)


def test_what_the_body_asks_goes_before_what_the_query_asks(predictor: Predictor) -> None:
    body = Body(json.dumps({"inputs": ROWS.tolist(), "parameters": {"top_k": 2}}).encode())
    found = json.loads(infer(predictor, body, top_k="1").encoded.body)
    assert len(found["predictions"][0]) == 2


def test_versions_are_said_where_they_could_be_the_reason(tmp_path: Path) -> None:
    state = {"linear.weight": torch.ones(3, 10), "linear.bias": torch.ones(3)}
    torch.save({"state_dict": state, "torch_version": "9.8.0"}, tmp_path / "model.pt")
    with pytest.raises((WeightsMismatch, ArchitectureBroken)) as caught:
        load_model(Settings.load(tmp_path / "model.pt", architecture="SimpleModel"))
    assert "written with torch 9.8.0" in caught.value.detail
    assert "pin torch==9.8.0" in caught.value.detail


def test_no_file_is_opened_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telling the weights from the files beside them opens each; loading takes what was opened."""
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    torch.save({"epoch": 3}, tmp_path / "trainer_state.pt")
    opened: list[str] = []
    real = registry.open_checkpoint

    def counting(path: Path, *given: str) -> object:
        opened.append(path.name)
        return real(path, *given)

    monkeypatch.setattr(registry, "open_checkpoint", counting)
    load_model(Settings.load(tmp_path))
    assert sorted(opened) == ["model.pt", "trainer_state.pt"]
