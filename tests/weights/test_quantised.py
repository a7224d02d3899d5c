"""Quantised weights that are not known, or lack a part, are named and refused by every command."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from score.cli.app import app
from score.errors import QuantisedWeights
from score.inference import pipeline
from score.settings import Settings


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def _dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(LeNet().eval(), {nn.Linear}, torch.qint8)


def _plain(*names: str) -> dict[str, torch.Tensor]:
    return {"model.q.bias": torch.ones(4), **{name: torch.ones(4, 4) for name in names}}


CHECKPOINTS = {
    "nothing but torch.ao": (
        lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear}).state_dict(),
        "torch.ao",
    ),
    "GPTQ": (lambda: _plain("model.q.qweight", "model.q.qzeros", "model.q.scales", "model.q.g_idx"), "GPTQ"),
    "bitsandbytes": (lambda: _plain("model.q.weight", "model.q.weight.absmax", "model.q.weight.quant_map"), "bitsandb"),
    "FP8 with scales": (lambda: _plain("model.q.weight", "model.q.weight_scale_inv"), "compressed-tensors"),
    "FP8": (lambda: {"q.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}, "float8"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("command", ["check", "convert", "package"])
def test_every_command_refuses(name: str, command: str, tmp_path: Path) -> None:
    make, says = CHECKPOINTS[name]
    torch.save(make(), tmp_path / "model.pt")
    output = {"convert": [str(tmp_path / "x.safetensors")], "package": ["-o", str(tmp_path / "out")], "check": []}[
        command
    ]
    done = CliRunner().invoke(app, [command, str(tmp_path / "model.pt"), *output])
    assert done.exit_code == 3
    assert "quantised_weights" in done.output
    assert says in done.output
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("name", ["nothing but torch.ao", "GPTQ"])
def test_inspect_names_them(name: str, tmp_path: Path) -> None:
    make, says = CHECKPOINTS[name]
    torch.save(make(), tmp_path / "model.pt")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "model.pt")])
    assert says in done.output
    assert "optimizer state" not in done.output


def test_a_program_that_computes_with_its_own_is_served(tmp_path: Path) -> None:
    torch.jit.script(_dynamic()).save(tmp_path / "model.pt")
    assert pipeline.load_model(Settings.load(tmp_path / "model.pt", device="cpu")).report.format == "torchscript"


def test_what_is_trained_to_be_quantised_is_not_quantised_yet(tmp_path: Path) -> None:
    state = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(2), "0.scale": torch.ones(1)}
    torch.save(state, tmp_path / "model.pt")
    try:
        pipeline.load_model(Settings.load(tmp_path / "model.pt"))
    except QuantisedWeights:
        pytest.fail("a parameter called scale is no quantisation")
    except Exception as error:  # noqa: BLE001  # no class fits these
        assert "architecture" in str(type(error)).lower()
