"""VGG, with torchvision's names: its checkpoints load unchanged.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014. Where the pools are
is in the numbering of the layers, since torchvision counts them.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from . import register
from ._shapes import Shapes, layers


@register(recipe="imagenet")
class VGG(nn.Module):
    """Images [N, in_channels, H, W] to logits [N, num_classes]. `stages` has the channels of each convolution, in
    stages that end with a pool; `hidden` is the width of the two linear layers before the last."""

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        batch_norm: bool,
        num_classes: int = 1000,
        in_channels: int = 3,
        hidden: int = 4096,
    ):
        super().__init__()
        self.takes = f"float32[N, {in_channels}, ?, ?]"
        parts: list[nn.Module] = []
        channels = in_channels
        for stage in stages:
            for width in stage:
                parts.append(nn.Conv2d(channels, width, 3, padding=1))
                parts += [nn.BatchNorm2d(width)] if batch_norm else []
                parts.append(nn.ReLU())
                channels = width
            parts.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*parts)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(channels * 49, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Dropout(), nn.Linear(hidden, num_classes),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> dict[str, Any] | None:
        numbers = [int(match[1]) for name in layers(shapes, 4) if (match := re.fullmatch(r"features\.(\d+)", name))]
        last, first = shapes.get("classifier.6.weight"), shapes.get("classifier.0.weight")
        if not numbers or last is None or first is None or len(numbers) != len(layers(shapes, 4)):
            return None
        batch_norm = "features.1.running_mean" in shapes
        step = 3 if batch_norm else 2  # convolution, normalisation, activation
        stages: list[list[int]] = [[]]
        for at, number in enumerate(numbers):
            stages[-1].append(shapes[f"features.{number}.weight"][0])
            gap = numbers[at + 1] - number if at + 1 < len(numbers) else step + 1
            if gap not in (step, step + 1):
                return None
            if gap == step + 1:
                stages.append([])
        return {
            "stages": stages[:-1],
            "batch_norm": batch_norm,
            "num_classes": last[0],
            "in_channels": shapes[f"features.{numbers[0]}.weight"][1],
            "hidden": first[0],
        }
