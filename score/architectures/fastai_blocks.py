"""The small layers of fastai that its vision learners put around a network of torchvision."""

from typing import Any

import torch
from torch import nn

from score.architectures.block import Block, words


class AdaptiveConcatPool2d(Block):
    """Maximum and average of each channel: [N, C, H, W] to [N, 2 x C, ...]."""

    PARTS = words("ap mp")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.mp(x), self.ap(x)), 1)


class Flatten(Block):
    KEPT = NEEDS = words("full")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1) if self.full else x.reshape(len(x), -1)


class SigmoidRange(Block):
    KEPT = NEEDS = words("low high")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x) * (self.high - self.low) + self.low


_BLOCKS: dict[str, type[nn.Module]] = {
    "AdaptiveConcatPool2d": AdaptiveConcatPool2d, "Flatten": Flatten, "SigmoidRange": SigmoidRange,
    "LinBnDrop": nn.Sequential, "ConvLayer": nn.Sequential,
}  # fmt: skip


def block(path: str) -> Any:
    """What computes as a class of fastai's does; None for any other."""
    module, _, name = path.rpartition(".")
    return _BLOCKS.get(name) if module == "fastai.layers" else None
