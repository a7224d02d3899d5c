"""detectron2's ResNet (He 2015) with a feature pyramid (Lin 2016): features by name, the largest first."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.detection_blocks.backbones import Named


class Conv2d(nn.Conv2d):
    """A convolution with the norm and the activation that it may have."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = super().forward(input)
        for name in ("norm", "activation"):
            then: Any = self._modules.get(name, self.__dict__.get(name))
            x = x if then is None else then(x)
        return x


class FrozenBatchNorm2d(Block):
    KEPT = NEEDS = words("eps")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)


class Stem(Block):
    PARTS = words("conv1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.relu(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class Residual(Block):
    PARTS, MAY = words("conv1 conv2"), words("shortcut")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.conv1(x))
        y = self.conv3(F.relu(self.conv2(y))) if "conv3" in self._modules else self.conv2(y)
        short = self._modules.get("shortcut")
        return F.relu(y + (x if short is None else short(x)))


class Bottleneck(Residual):
    PARTS = words("conv1 conv2 conv3")


class ResNet(Block):
    PARTS, MAY = words("stem res2"), words("res3 res4 res5")
    KEPT, NEEDS = words("stage_names _out_features num_classes"), words("stage_names _out_features")

    def unknown(self) -> str:
        good = set(self.stage_names) <= self._modules.keys() and self.__dict__.get("num_classes") is None
        return "" if good else "stage_names"

    def forward(self, x: torch.Tensor) -> Named:
        x = self.stem(x)
        found = {"stem": x} if "stem" in self._out_features else {}
        for name in self.stage_names:
            x = self._modules[name](x)  # type: ignore[misc]
            if name in self._out_features:
                found[str(name)] = x
        return found


class FPN(Block):
    PARTS = words("bottom_up")
    MAY = frozenset(f"fpn_{kind}{at}" for kind in ("lateral", "output") for at in range(1, 8)) | words("top_block")
    KEPT = words("in_features _out_features _size_divisibility _fuse_type _square_pad")
    NEEDS = words("in_features _out_features _size_divisibility _fuse_type")

    def unknown(self) -> str:
        if self.__dict__.get("_square_pad"):
            return "_square_pad"
        known = self._fuse_type in ("sum", "avg") and type(self._size_divisibility) is int
        return "" if known and len(self.levels) == len(self.in_features) else "in_features"

    @property
    def levels(self) -> list[str]:
        """Their numbers, the largest feature's first."""
        return sorted(name.removeprefix("fpn_lateral") for name in self._modules if name.startswith("fpn_lateral"))

    def forward(self, x: torch.Tensor) -> Named:
        given = self.bottom_up(x)
        above, found = None, list[torch.Tensor]()
        for level, name in zip(reversed(self.levels), reversed(self.in_features), strict=True):
            y = self._modules[f"fpn_lateral{level}"](given[name])  # type: ignore[misc]
            if above is not None:
                y = y + F.interpolate(above, scale_factor=2.0, mode="nearest")
                y = y / 2 if self._fuse_type == "avg" else y
            above = y
            found.insert(0, self._modules[f"fpn_output{level}"](y))  # type: ignore[misc]
        named = dict(zip(self._out_features, found, strict=False))
        if self._modules.get("top_block") is not None:
            found.extend(self.top_block({**given, **named}))
        return dict(zip(self._out_features, found, strict=True))


class LastMaxPool(Block):
    """One more, half as large."""

    KEPT = NEEDS = words("in_feature")

    def forward(self, named: Named) -> list[torch.Tensor]:
        return [F.max_pool2d(named[self.in_feature], kernel_size=1, stride=2)]


class LastP6P7(Block):
    PARTS = words("p6 p7")
    KEPT = NEEDS = words("in_feature")

    def forward(self, named: Named) -> list[torch.Tensor]:
        x = self.p6(named[self.in_feature])
        return [x, self.p7(F.relu(x))]


class Buffers(Block):
    """Tensors by number."""


class Anchors(Block):
    """Boxes of several sizes around each place of a feature: [h x w x A, 4] for each."""

    PARTS = words("cell_anchors")
    KEPT = NEEDS = words("strides offset")

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for x, stride, base in zip(features, self.strides, self.cell_anchors.buffers(), strict=True):
            high, wide = x.shape[-2:]
            down, across = (
                torch.arange(self.offset * stride, side * stride, stride, dtype=torch.float32, device=x.device)
                for side in (high, wide)
            )
            y, x_ = torch.meshgrid(down, across, indexing="ij")
            places = torch.stack((x_.reshape(-1), y.reshape(-1)), 1).repeat(1, 2)
            found.append((places[:, None] + base[None]).reshape(-1, 4))
        return found
