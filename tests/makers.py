"""Files of every format, made here: what a format's tests, and the tests of all formats, read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

State = dict[str, torch.Tensor]
Maker = Callable[[Path], State]  # writes a checkpoint below a folder and gives the weights that are in it


class Net(nn.Module):
    """A small network with everything that a state has: parameters, buffers, a counter, submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x)).relu() * self.scale
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


def net() -> Net:
    torch.manual_seed(11)
    return Net().eval()


def torch_zip(folder: Path) -> State:
    state = net().state_dict()
    torch.save(state, folder / "model.pt")
    return state


def torch_legacy(folder: Path) -> State:
    state = net().state_dict()
    torch.save(state, folder / "model.pth", _use_new_zipfile_serialization=False)
    return state


def safetensors(folder: Path) -> State:
    state = net().state_dict()
    save_file(state, folder / "model.safetensors")
    return state


def torchscript(folder: Path) -> State:
    module: Any = torch.jit.script(net())
    module.save(str(folder / "model.pt"))
    return dict(torch.jit.load(str(folder / "model.pt")).state_dict())


def torch_export(folder: Path) -> State:
    model = net()
    program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, folder / "model.pt2")
    return dict(program.state_dict)


MAKERS: dict[str, Maker] = {
    "torch-zip": torch_zip,
    "torch-legacy": torch_legacy,
    "safetensors": safetensors,
    "torchscript": torchscript,
    "torch-export": torch_export,
}
