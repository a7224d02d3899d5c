"""MobileNetV2, with torchvision's names: its checkpoints load unchanged.

Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", 2018.
"""

from typing import Any

import torch
from torch import nn

from . import register
from ._shapes import Shapes

# Expansion, channels, blocks and stride of each stage: table 2 of the paper.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
WIDTHS = (1.0, 0.35, 0.5, 0.75, 1.3, 1.4)  # those that pretrained weights were published for


def rounded(channels: float) -> int:
    """To a multiple of 8, and never down by more than a tenth."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found if found >= 0.9 * channels else found + 8


class _Normed(nn.Sequential):
    """A convolution, its normalisation and ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, and project; with the input added where the sizes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_Normed(inputs, hidden, 1)] if expansion != 1 else []),
            _Normed(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


@register(recipe="imagenet")
class MobileNetV2(nn.Module):
    """Images [N, in_channels, H, W] to logits [N, num_classes]; `width` multiplies all channels."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, width: float = 1.0):
        super().__init__()
        self.takes = f"float32[N, {in_channels}, ?, ?]"
        channels, last = rounded(32 * width), rounded(1280 * max(1.0, width))
        parts: list[nn.Module] = [_Normed(in_channels, channels, 3, 2)]
        for expansion, planes, blocks, stride in STAGES:
            for at in range(blocks):
                parts.append(InvertedResidual(channels, rounded(planes * width), stride if at == 0 else 1, expansion))
                channels = rounded(planes * width)
        self.features = nn.Sequential(*parts, _Normed(channels, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> dict[str, Any] | None:
        stem, head = shapes.get("features.0.0.weight"), shapes.get("classifier.1.weight")
        widest = shapes.get("features.17.conv.2.weight")  # of the last stage
        if stem is None or head is None or widest is None or len(stem) != 4:
            return None
        for width in WIDTHS:
            if (widest[0], head[1]) == (rounded(320 * width), rounded(1280 * max(1, width))):
                return {"num_classes": head[0], "in_channels": stem[1], "width": width}
        return None
