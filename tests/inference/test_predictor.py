"""What a loaded model is found to be, and what it does when it fails."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from score.errors import DeviceLost, ModelRejected, OutOfMemory
from score.inference.pipeline import load_model
from score.inference.predictor import Predictor
from score.settings import Settings


def served(module: nn.Module, folder: Path, inputs: str) -> Predictor:
    """A module as it is served; what its weights are does not matter here."""
    torch.save(nn.Linear(1, 1), folder / "model.pt")
    loaded = load_model(Settings.load(folder / "model.pt", inputs=inputs))
    return Predictor(module.eval(), loaded.report, loaded.settings)


class Mixing(nn.Module):
    """Rows depend on each other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.to(torch.float32).mean(0)


class Raising(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("module", "inputs", "separable"),
    [
        (nn.Linear(4, 2), "float32[N, 4]", True),
        (nn.Linear(4, 2).to(torch.bfloat16), "bfloat16[N, 4]", True),
        (nn.Linear(4, 2), "float32[1, 4]", False),  # the batch is fixed
        (Mixing(), "float32[N, 4]", False),
        (Mixing(), "int64[N, 4]", False),
        (nn.Embedding(9, 3), "int64[N, L]", True),
        (nn.Embedding(1, 3), "int64[N, L]", None),  # the made-up row was refused
        (nn.LSTM(4, 3), "float32[T, N, 4]", False),  # the first dimension is time
        (nn.LSTM(4, 3, batch_first=True), "float32[N, T, 4]", False),  # the states' batch is not in front
        (nn.Linear(4, 2), "float32", None),  # no shape to try
    ],
)
def test_separability_is_found_by_trying(
    module: nn.Module, inputs: str, separable: bool | None, tmp_path: Path
) -> None:
    assert served(module, tmp_path, inputs).batcher.separable is separable


def test_what_a_model_raises_is_rejected_in_its_own_words(tmp_path: Path) -> None:
    for error in (ValueError("no good"), SystemExit("no good")):
        with pytest.raises(ModelRejected, match="no good"):
            served(Raising(error), tmp_path, "float32[N, 4]").predict({"x": torch.ones(1, 4)})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        served(Raising(error), tmp_path, "float32[N, 4]").predict({"x": torch.ones(1, 4)})


def test_a_lost_gpu_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    with pytest.raises(DeviceLost):
        served(Raising(error), tmp_path, "float32[N, 4]").predict({"x": torch.ones(1, 4)})
    assert signals == [(os.getpid(), signal.SIGTERM)]
