"""U-Net, with the names of the implementation that most copies descend from (`inc`, `down1`, `up1`, `outc`).

Ronneberger, Fischer and Brox, "U-Net: Convolutional networks for biomedical image segmentation", 2015, with padded
convolutions and batch normalisation.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from . import register
from ._shapes import Shapes


class DoubleConv(nn.Module):
    """Twice: a 3x3 convolution, its normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, between: int):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(inputs, between, 3, padding=1, bias=False), nn.BatchNorm2d(between), nn.ReLU(),
            nn.Conv2d(between, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """Half the size, then two convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inputs, outputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Twice the size, beside what came down at that size, then two convolutions."""

    def __init__(self, inputs: int, outputs: int, bilinear: bool):
        super().__init__()
        if bilinear:
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        else:
            self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, 2)
        self.conv = DoubleConv(inputs, outputs, inputs // 2 if bilinear else outputs)

    def forward(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        high, wide = beside.shape[2] - x.shape[2], beside.shape[3] - x.shape[3]
        x = functional.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        return self.conv(torch.cat([beside, x], 1))


@register
class UNet(nn.Module):
    """Images [N, in_channels, H, W] to a logit a class and pixel [N, num_classes, H, W]; H and W at least 16."""

    def __init__(self, in_channels: int, num_classes: int, bilinear: bool, width: int = 64):
        super().__init__()
        self.takes = f"float32[N, {in_channels}, ?, ?]"
        halved = 2 if bilinear else 1
        sizes = [width * 2**at for at in range(5)]
        self.inc = DoubleConv(in_channels, width, width)
        for at in range(1, 5):
            self.add_module(f"down{at}", Down(sizes[at - 1], sizes[at] // (halved if at == 4 else 1)))
        for at in range(1, 5):
            self.add_module(f"up{at}", Up(sizes[5 - at], sizes[4 - at] // (halved if at < 4 else 1), bilinear))
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = [self.inc(x)]
        for at in range(1, 5):
            beside.append(self.get_submodule(f"down{at}")(beside[-1]))
        x = beside.pop()
        for at in range(1, 5):
            x = self.get_submodule(f"up{at}")(x, beside.pop())
        return self.outc.conv(x)  # type: ignore[operator]

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> dict[str, Any] | None:
        first, last = shapes.get("inc.double_conv.0.weight"), shapes.get("outc.conv.weight")
        if (
            first is None
            or last is None
            or len(first) != 4
            or "down4.maxpool_conv.1.double_conv.0.weight" not in shapes
        ):
            return None
        return {
            "in_channels": first[1],
            "num_classes": last[0],
            "bilinear": "up1.up.weight" not in shapes,
            "width": first[0],
        }
