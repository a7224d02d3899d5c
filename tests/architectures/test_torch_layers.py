"""Whole modules of torch's own layers are served as they are, without trust; anything more is not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.errors import LoadError
from score.inference import pipeline
from score.settings import Settings

SAVERS: dict[str, Any] = {
    "zip": lambda value, path: torch.save(value, path),
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
}


def modules() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(6)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    return {
        "mlp": (nn.Sequential(nn.Linear(10, 8), nn.LeakyReLU(0.3), nn.Dropout(), nn.Linear(8, 2)), torch.rand(3, 10)),
        "cnn": (
            nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                          nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)), torch.rand(2, 3, 16, 16),
        ),
        "transformer": (nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), torch.rand(2, 5, 8)),
        "tied": (tied, torch.rand(3, 4)),
        "lone layer": (nn.Linear(3, 2).half().float(), torch.rand(2, 3)),
    }  # fmt: skip


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("name", modules())
def test_it_computes_what_it_computed(tmp_path: Path, name: str, saver: str) -> None:
    model, inputs = modules()[name]
    model.eval()
    SAVERS[saver]({"model": model, "epoch": 3}, tmp_path / "model.pt")
    served = pipeline.load_model(Settings.load(tmp_path))
    assert served.report.source == "the pickled module, of torch's own layers"
    assert type(served.module) is type(model)
    with torch.inference_mode():
        torch.testing.assert_close(served.module(inputs), model(inputs))


def test_a_recurrent_network(tmp_path: Path) -> None:
    model = nn.LSTM(3, 4, batch_first=True)
    torch.save(model, tmp_path / "model.pt")
    served = pipeline.load_model(Settings.load(tmp_path))
    x = torch.rand(2, 5, 3)
    with torch.inference_mode():
        torch.testing.assert_close(served.module(x)[0], model(x)[0])


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    torch.save(modules()["tied"][0], tmp_path / "model.pt")
    module: Any = pipeline.load_model(Settings.load(tmp_path)).module
    assert module[0].weight is module[2].weight


class Own(nn.Module):
    """A layer of the project."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


def hook(*_args: Any) -> None:
    raise AssertionError("a hook of the file was called")


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_forward_hook(hook)
    return model


def _patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].forward = hook  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(2, 2), Own()), _hooked, _patched])
def test_anything_more_needs_trust(tmp_path: Path, make: Any) -> None:
    torch.save(make(), tmp_path / "model.pt")
    with pytest.raises(LoadError) as caught:
        pipeline.load_model(Settings.load(tmp_path))
    assert caught.value.code == "untrusted_code"


def test_a_module_of_torch_0_3_with_its_table_of_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It kept `torch.nn.backends.thnn`, which torch has long lost, in every module."""
    import sys
    import types

    thnn = types.ModuleType("torch.nn.backends.thnn")

    def _get_thnn_function_backend() -> None: ...

    _get_thnn_function_backend.__module__ = thnn.__name__
    _get_thnn_function_backend.__qualname__ = _get_thnn_function_backend.__name__
    thnn._get_thnn_function_backend = _get_thnn_function_backend  # type: ignore[attr-defined]

    class Backend:
        def __reduce__(self) -> Any:
            return _get_thnn_function_backend, ()

    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    for part in module.modules():
        part._backend = Backend()  # type: ignore[assignment]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torch.nn.backends", types.ModuleType("torch.nn.backends"))
        patched.setitem(sys.modules, thnn.__name__, thnn)
        torch.save(module, tmp_path / "model.pt")
    served = pipeline.load_model(Settings.load(tmp_path / "model.pt", device="cpu"))
    assert served.report.source == "the pickled module, of torch's own layers"
    x = torch.rand(2, 4)
    torch.testing.assert_close(served.module(x), module(x))
