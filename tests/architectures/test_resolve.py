"""Finding the class: by setting, from the file, by recognition; and what is said when there is none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import models
from models.simple_model import SimpleModel
from score.errors import (
    ArchitectureAmbiguous,
    ArchitectureBroken,
    ArchitectureNeeded,
    ArchitectureUnknown,
    ClassNotImportable,
    UntrustedCode,
    WeightsMismatch,
)
from score.inference import pipeline
from score.inference.predictor import Predictor
from score.settings import Settings
from score.weights.hashing import file_sha256
from tests.makers import net


def load(value: Any, folder: Path, **settings: Any) -> Predictor:
    torch.save(value, folder / "model.pt")
    return pipeline.load_model(Settings.load(folder / "model.pt", **settings))


def state() -> dict[str, torch.Tensor]:
    return SimpleModel().state_dict()


@pytest.mark.parametrize("setting", ["SimpleModel", "models.simple_model:SimpleModel", None])
@pytest.mark.parametrize("kind", ["bare", "training checkpoint"])
def test_simple_model_loads_with_its_name_or_with_nothing(tmp_path: Path, setting: str | None, kind: str) -> None:
    weights = state()
    optimizer = torch.optim.SGD(SimpleModel().parameters(), lr=0.1, momentum=0.9)
    checkpoint = {"model_state_dict": weights, "optimizer_state_dict": optimizer.state_dict(), "epoch": 3}
    served = load(weights if kind == "bare" else checkpoint, tmp_path, architecture=setting)
    assert type(served.module) is SimpleModel
    assert torch.equal(served.module.state_dict()["linear.weight"], weights["linear.weight"])
    assert served.report.weights_path == ("" if kind == "bare" else "model_state_dict")


def test_a_class_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Config:\n    width: int = 10\n"
        "class Net(nn.Module):\n    def __init__(self, width=3):\n        super().__init__()\n"
        "        self.linear = nn.Linear(Config(width).width, 2)\n"
        "    def forward(self, x):\n        return self.linear(x)\n"
    )
    served = load(state(), tmp_path, architecture=f"{tmp_path / 'net.py'}:Net", architecture_kwargs={"width": 10})
    assert served.signature.as_dict() == {
        "inputs": {"x": "float32[N, 10]"},
        "source": "found by trying",
        "guessed": True,
    }
    with pytest.raises(WeightsMismatch) as caught:
        load(state(), tmp_path, architecture=f"{tmp_path / 'net.py'}:Net")
    assert "SCORE_ARCHITECTURE_KWARGS" in caught.value.hint
    assert "linear.weight [2, 3]" in caught.value.detail
    with pytest.raises(ArchitectureUnknown, match="its modules are: Net"):
        load(state(), tmp_path, architecture=f"{tmp_path / 'net.py'}:Nett")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("Nothing", ArchitectureUnknown, "no architecture is registered as 'Nothing'"),
        ("no.such.package:Net", ArchitectureUnknown, "no.such.package can't be imported"),
        ("no/such/file.py:Net", ArchitectureUnknown, "there is no file no/such/file.py"),
        ("os:getcwd", ArchitectureBroken, "makes a str, not a torch.nn.Module"),
        ("torch.nn:Linear", ArchitectureBroken, "missing 2 required positional arguments"),
    ],
)
def test_a_class_that_is_not_there(tmp_path: Path, name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        load(state(), tmp_path, architecture=name)
    assert says in str(caught.value)


def test_no_registered_class_fits(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureNeeded) as caught:
        load({**state(), "odd": torch.ones(3, 3, 3)}, tmp_path)
    assert "SimpleModel: 2 of 2 keys match (odd is left over)" in caught.value.detail
    assert "linear.weight [2, 10]" in caught.value.detail


@pytest.fixture
def twin() -> Iterator[None]:
    @models.register
    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(10, 2)

    yield
    del models._REGISTERED["Twin"]


@pytest.mark.usefixtures("twin")
def test_two_that_fit_are_never_guessed_between(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureAmbiguous, match=r"SimpleModel.*Twin"):
        load(state(), tmp_path)
    assert type(load(state(), tmp_path, architecture="SimpleModel").module) is SimpleModel


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="SimpleModel is registered by"):
        models.register(type("SimpleModel", (nn.Module,), {"__module__": "elsewhere"}))


def test_a_pickled_module_runs_its_class_only_when_trusted(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(UntrustedCode) as caught:
        load(model, tmp_path)
    digest = file_sha256(tmp_path / "model.pt")
    assert f"SCORE_TRUST_SHA256={digest}" in caught.value.hint
    assert "it would import or run: tests.makers.Net" in caught.value.detail
    images = torch.rand(3, 1, 8, 8)
    for trust in ({"trust_code": True}, {"trust_sha256": digest}):
        served = pipeline.load_model(Settings.load(tmp_path / "model.pt", **trust))
        assert type(served.module) is type(model)
        with torch.inference_mode():
            assert torch.equal(served.module(images), model(images))
    with pytest.raises(UntrustedCode):
        pipeline.load_model(Settings.load(tmp_path / "model.pt", trust_sha256="0" * 64))


@pytest.mark.parametrize("path", ["model", "nets.1"])
def test_a_pickled_module_deeper_in_the_file(tmp_path: Path, path: str) -> None:
    value = {"model": net(), "epoch": 3} if path == "model" else {"nets": [1, net()]}
    served = load(value, tmp_path, trust_code=True)
    assert served.report.weights_path == path
    assert served.report.source == "the pickled module, trusted"


def test_a_pickled_module_of_a_registered_class_needs_no_trust(tmp_path: Path) -> None:
    model = SimpleModel()
    served = load(model, tmp_path)
    assert served.report.source == "recognised by keys and shapes"
    assert torch.equal(served.module.state_dict()["linear.bias"], model.linear.bias)


class _Gone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)


@pytest.mark.parametrize("trust", [False, True])
def test_a_class_that_does_not_exist_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: bool) -> None:
    monkeypatch.setattr(_Gone, "__module__", "__main__")
    monkeypatch.setattr("__main__._Gone", _Gone, raising=False)
    torch.save(_Gone(), tmp_path / "model.pt")
    monkeypatch.delattr("__main__._Gone")
    with pytest.raises(ClassNotImportable) as caught:
        pipeline.load_model(Settings.load(tmp_path / "model.pt", trust_code=trust))
    assert "__main__._Gone" in str(caught.value) + caught.value.detail
    assert "SCORE_ARCHITECTURE" in caught.value.hint


def test_a_broken_file_in_models_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_model.py").write_text("import nonexistent_package\n")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    with pytest.raises(ArchitectureBroken, match="nonexistent_package") as caught:
        load(state(), tmp_path)
    assert "broken_model.py:1" in caught.value.detail


def test_the_mismatch_is_a_table(tmp_path: Path) -> None:
    weights = {"lin.weight": torch.ones(2, 10), "linear.bias": torch.ones(3), "extra": torch.ones(1)}
    with pytest.raises(WeightsMismatch) as caught:
        load(weights, tmp_path, architecture="SimpleModel")
    rows = caught.value.detail.splitlines()
    assert any(row.startswith("linear.weight [2, 10]") and "lin.weight [2, 10]" in row for row in rows)
    assert any(row.startswith("linear.bias [2]") and "linear.bias [3]" in row for row in rows)
    assert "1 keys missing, 1 mis-shaped, 2 unexpected" in caught.value.message
