"""Whole modules that torch.ao quantised compute as they did in torch, without trust; under a class of one's own, their
weights are the numbers that they stand for."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao import quantization

from score.architectures import torch_ao_layers, torch_layers
from score.errors import LoadError
from score.formats._pickle import torch_ao
from score.formats.base import OpaqueObject
from score.formats.registry import open_checkpoint
from score.inference import pipeline
from score.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore")


def _dynamic(module: nn.Module, dtype: torch.dtype = torch.qint8) -> Any:
    return quantization.quantize_dynamic(module.eval(), None, dtype=dtype)


def _static(module: Any, inputs: torch.Tensor, fused: list[list[str]] | None = None, per: str = "x86") -> Any:
    whole = nn.Sequential(quantization.QuantStub(), *module, quantization.DeQuantStub()).eval()
    whole = quantization.fuse_modules(whole, fused) if fused else whole
    whole.qconfig = quantization.get_default_qconfig(per)  # type: ignore[assignment]
    prepared = quantization.prepare(whole)
    prepared(inputs)
    return quantization.convert(prepared)


def _embedding(module: nn.Module) -> Any:
    whole = nn.Sequential(module).eval()
    whole.qconfig = quantization.float_qparams_weight_only_qconfig  # type: ignore[assignment]
    return quantization.convert(quantization.prepare(whole))


PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(1))
MODULES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "linear": (lambda: _dynamic(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))), SEQUENCES),
    "linear, float16": (lambda: _dynamic(nn.Sequential(nn.Linear(4, 8)), torch.float16), SEQUENCES),
    "LSTM": (lambda: _dynamic(nn.Sequential(nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True))), SEQUENCES),
    "LSTM, float16": (lambda: _dynamic(nn.Sequential(nn.LSTM(4, 6)), torch.float16), SEQUENCES),
    "GRU": (lambda: _dynamic(nn.Sequential(nn.GRU(4, 6, 2, batch_first=True))), SEQUENCES),
    "LSTM cell": (lambda: _dynamic(nn.Sequential(nn.LSTMCell(4, 6))), SEQUENCES[:, 0]),
    "convolutions": (
        lambda: _static(
            nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4),
                nn.BatchNorm2d(8), nn.ELU(), nn.Hardswish(), nn.LeakyReLU(0.1),
                nn.GroupNorm(2, 8), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
            ),
            PICTURES, [["1", "2", "3"]],
        ), PICTURES,
    ),
    "a transposed convolution": (
        lambda: _static(nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2, groups=1)), PICTURES, per="qnnpack"),
        PICTURES,
    ),
    "fused linear": (
        lambda: _static(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8)), SEQUENCES, [["1", "2"]]), SEQUENCES
    ),
    "embedding": (lambda: _embedding(nn.Embedding(10, 8)), torch.tensor([[1, 2], [3, 9]])),
    "bag": (lambda: _embedding(nn.EmbeddingBag(10, 8, mode="sum")), torch.tensor([[1, 2], [3, 9]])),
}  # fmt: skip


def _made(name: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODULES[name][0](), MODULES[name][1]


def _first(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else _first(value[0])


def _load(path: Path, **settings: Any) -> Any:
    return pipeline.load_model(Settings.load(path, **{"device": "cpu", **settings}))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("zipped", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_it_computes_what_it_computed(name: str, zipped: bool, tmp_path: Path) -> None:
    module, inputs = _made(name)
    with torch.inference_mode():
        expected = _first(module(inputs))
    torch.save({"model": module, "epoch": 3}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    served = _load(tmp_path / "model.pt")
    assert "quantised layers" in served.report.source
    with torch.inference_mode():
        assert torch.equal(_first(served.module(inputs)), expected)


def test_what_torch_itself_cannot_move_is_served(tmp_path: Path) -> None:
    """torch unpickles a quantised convolution without its submodules."""
    module, inputs = _made("convolutions")
    torch.save(module, tmp_path / "model.pt")
    with pytest.raises(AttributeError):
        torch.load(tmp_path / "model.pt", weights_only=False).eval()
    served = _load(tmp_path / "model.pt")
    with torch.inference_mode():
        expected = module(inputs)
    np.testing.assert_array_equal(served.batcher.submit({served.signature.inputs[0].name: inputs})[0], expected)
    assert served.signature.inputs[0].shape is not None, "the first convolution says what it takes"


def test_rows_of_a_dynamically_quantised_model_are_answered_alone(tmp_path: Path) -> None:
    """Integers share one range: in a batch, a row's answer would depend on the rows beside it."""
    torch.save(_made("linear")[0], tmp_path / "model.pt")
    assert _load(tmp_path / "model.pt").batcher.separable is False
    torch.save(_made("convolutions")[0], tmp_path / "model.pt")
    assert _load(tmp_path / "model.pt").batcher.separable is True


class Net(nn.Module):
    """A class of the project, with a quantised part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()

    def forward(self, x: torch.Tensor) -> Any:
        return self.dequant(self.fc(self.conv(self.quant(x)).mean((2, 3))))


def _net() -> Any:
    torch.manual_seed(4)
    module = Net().eval()
    module.qconfig = quantization.get_default_qconfig("x86")  # type: ignore[assignment]
    prepared = quantization.prepare(module)
    prepared(PICTURES)
    return quantization.convert(prepared)


def test_a_class_of_the_projects_needs_trust_and_then_computes_in_integers(tmp_path: Path) -> None:
    module = _net()
    torch.save(module, tmp_path / "model.pt")
    with pytest.raises(LoadError) as caught:
        _load(tmp_path / "model.pt")
    assert caught.value.code == "untrusted_code"
    served = _load(tmp_path / "model.pt", trust_code=True)
    with torch.inference_mode():
        assert torch.equal(served.module(PICTURES), module(PICTURES))


def test_under_a_named_class_the_weights_are_the_numbers_that_they_stand_for(tmp_path: Path) -> None:
    module: Any = _net()
    torch.save(module, tmp_path / "model.pt")
    served = _load(tmp_path / "model.pt", architecture=f"{__name__}:Net")
    held = served.module.state_dict()
    assert torch.equal(held["conv.weight"], module.conv.weight().dequantize())
    assert torch.equal(held["fc.bias"], module.fc.bias())


def test_what_torch_called_them_before_torch_ao(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = _made("linear")
    for cls in {type(part) for part in module.modules() if "torch.ao.nn" in type(part).__module__}:
        monkeypatch.setattr(cls, "__module__", cls.__module__.replace("torch.ao.", "torch."))
    torch.save(module, tmp_path / "model.pt")
    monkeypatch.undo()
    assert b"torch.nn.quantized.dynamic" in (tmp_path / "model.pt").read_bytes()
    with torch.inference_mode():
        assert torch.equal(_load(tmp_path / "model.pt").module(inputs), module(inputs))


ORDER = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed", "output_padding"),
    *("groups", "padding_mode", "weight", "bias", "scale", "zero_point", "training"),
)  # of a convolution's state


@pytest.mark.parametrize(
    "changed",
    [
        {"groups": 0}, {"groups": 3}, {"stride": (0, 0)}, {"in_channels": 4}, {"kernel_size": (3,)}, {"scale": 0.0},
        {"padding": (-1, 0)}, {"padding_mode": "own"}, {"bias": "weight"}, {"weight": "bias"}, {"transposed": True},
        {"hidden_size": 600}, {"num_layers": 3}, {"input_size": 5}, {"bidirectional": False},
    ],
)  # fmt: skip
def test_weights_of_another_layer_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    convolution = set(changed) <= set(ORDER)
    torch.save(_made("convolutions")[0][1] if convolution else _made("LSTM")[0][0], tmp_path / "model.pt")
    tree = open_checkpoint(tmp_path / "model.pt").tree
    state = dict(zip(ORDER, tree.state, strict=True)) if convolution else tree.state
    assert set(changed) <= state.keys()
    state = {
        **state,
        **{name: state.get(value, value) if isinstance(value, str) else value for name, value in changed.items()},
    }
    tree.state = tuple(state.values()) if convolution else state
    with pytest.raises(torch_layers.NotPlain):
        torch_layers.rebuild(tree)


@pytest.mark.parametrize(
    "state",
    [None, ((), "x"), ((1, 2), torch_ao.LINEAR), ((None,), torch_ao.CELL), 7],
)
def test_an_object_that_is_no_packed_weights(state: Any) -> None:
    def tensor(value: Any) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        raise torch_ao_layers.Unusable("no tensor")

    with pytest.raises(torch_ao_layers.Unusable):
        torch_ao_layers.unpacked(OpaqueObject(torch_ao.OBJECT, state=state), tensor)
