"""ResNet, wide ResNet and ResNeXt, with torchvision's names: its checkpoints load unchanged.

He et al., "Deep residual learning for image recognition", 2015, in the variant that torchvision has: the stride of a
bottleneck is in its 3x3 convolution. Zagoruyko and Komodakis, "Wide residual networks", 2016. Xie et al., "Aggregated
residual transformations", 2016.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from . import register
from ._shapes import Shapes, count

_PLANES = (64, 128, 256, 512)


class _Block(nn.Module):
    """What both kinds of block share: the sum with the input, which a 1x1 convolution fits where sizes differ."""

    expansion: int
    downsample: nn.Sequential | None

    def _fit(self, inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
        if stride == 1 and inputs == outputs:
            return None
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def _through(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passed = x if self.downsample is None else self.downsample(x)
        return (self._through(x) + passed).relu()


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, groups: int, base: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = self._fit(inputs, planes, stride)

    def _through(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


class Bottleneck(_Block):
    """1x1, 3x3 (with the stride, in groups), 1x1."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, groups: int, base: int):
        super().__init__()
        width = planes * base // 64 * groups
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.downsample = self._fit(inputs, planes * 4, stride)

    def _through(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.bn3(self.conv3(self.bn2(self.conv2(x)).relu()))


@register(recipe="imagenet")
class ResNet(nn.Module):
    """Images [N, in_channels, H, W] to logits [N, num_classes]. `depths` are the blocks of each of the four stages."""

    def __init__(
        self,
        depths: Sequence[int],
        bottleneck: bool,
        num_classes: int = 1000,
        in_channels: int = 3,
        groups: int = 1,
        base: int = 64,
    ):
        super().__init__()
        block = Bottleneck if bottleneck else BasicBlock
        self.takes = f"float32[N, {in_channels}, ?, ?]"
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, (planes, depth) in enumerate(zip(_PLANES, depths, strict=True), 1):
            blocks = []
            for at in range(depth):
                blocks.append(block(channels, planes, 2 if stage > 1 and at == 0 else 1, groups, base))
                channels = planes * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for at in range(1, 5):
            x = self.get_submodule(f"layer{at}")(x)
        return self.fc(x.mean((2, 3)))

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> dict[str, Any] | None:
        stem, fc, first = (shapes.get(f"{name}.weight") for name in ("conv1", "fc", "layer1.0.conv2"))
        if stem is None or fc is None or first is None or len(stem) != 4 or len(first) != 4 or len(fc) != 2:
            return None
        width, per_group = first[:2]
        found = {
            "depths": [count(shapes, rf"layer{at}\.(\d+)\.") for at in range(1, 5)],
            "bottleneck": "layer1.0.conv3.weight" in shapes,
            "num_classes": fc[0],
            "in_channels": stem[1],
        }
        if found["bottleneck"] and per_group:
            groups = width // per_group
            return found | {"groups": groups, "base": width // groups}
        return found
