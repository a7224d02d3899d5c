"""What decoders of segmentation-models-pytorch share: resizing, attention, activations."""

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words


class Doubled(Block):
    """What makes its input twice as large, by `interpolation_mode`."""

    KEPT = words("interpolation_mode")

    def unknown(self) -> str:
        return "" if self.mode in ("nearest", "bilinear", "bicubic", "nearest-exact", "area") else "interpolation_mode"

    @property
    def mode(self) -> str:
        return str(self.__dict__.get("interpolation_mode", "nearest"))

    def doubled(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2.0, mode=self.mode)


class Inner(Block):
    """A block around the one that computes."""

    PARTS = words("block")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Activation(Block):
    PARTS = words("activation")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(x)


class ArgMax(Block):
    KEPT = NEEDS = words("dim")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.argmax(x, dim=self.dim)


class Clamp(Block):
    KEPT = NEEDS = words("min max")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(x, self.min, self.max)


class Attention(Block):
    PARTS = words("attention")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x)


class SCSE(Block):
    """Roy 2018: squeezed by places, and by channels."""

    PARTS = words("cSE sSE")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.cSE(x) + x * self.sSE(x)
