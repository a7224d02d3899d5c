"""LoRA (Hu et al. 2021) beside the layers of a model, which keep their weights.

As PEFT computes with an adapter that is not merged: in the adapter's precision, a half being brought to a single one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from score.inference.load import LoadReport
from score.weights.lora import Lora, full


class Beside:
    """A layer's hook: adds what the adapter says of its input to its output."""

    def __init__(self, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        self.down, self.up, self.scale = down, up, scale

    def __call__(self, _layer: nn.Module, given: tuple[Any, ...], found: torch.Tensor) -> torch.Tensor:
        x = given[0].to(self.down.dtype)
        return (found + F.linear(F.linear(x, self.down), self.up) * self.scale).to(found.dtype)


def attached(module: nn.Module, adapter: Mapping[str, Lora], report: LoadReport) -> LoadReport:
    """Have an adapter run beside a module's layers, by their names; the report says of how many."""
    for name, lora in adapter.items():
        layer = module.get_submodule(name)
        device = next(layer.parameters()).device
        down, up = (full(ref.load()).to(device) for ref in (lora.down, lora.up))
        layer.register_forward_hook(Beside(down, up, lora.scale))
    return replace(report, metadata=report.metadata | {"adapter_beside": len(adapter)}) if adapter else report
