"""The model that every article on saving and loading starts from."""

import torch
from torch import nn

from . import register


@register(inputs="float32[N, 10]")
class SimpleModel(nn.Module):
    """One linear layer, 10 inputs, 2 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(x)
        return logits
