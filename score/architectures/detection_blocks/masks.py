"""torchvision's networks for masks; segmentation-models-pytorch has taken over a part of them."""

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.detection_blocks.backbones import Named


class Masks(Block):
    """A classifier of each pixel: DeepLab v3 (Chen 2017), FCN (Long 2014)."""

    PARTS, MAY = words("backbone classifier"), words("aux_classifier")

    @property
    def takes(self) -> str:
        return "float32[N, 3, ?, ?]"

    def forward(self, x: torch.Tensor) -> Named:
        features = self.backbone(x)
        found = {"out": self.classifier(features["out"])}
        if "aux_classifier" in self._modules:
            found["aux"] = self.aux_classifier(features["aux"])
        return {name: as_large(each, x) for name, each in found.items()}


class LRASPP(Masks):
    """Howard 2019."""

    PARTS, MAY = words("backbone classifier"), frozenset()

    def forward(self, x: torch.Tensor) -> Named:
        found = self.classifier(self.backbone(x))
        return {"out": as_large(found, x)}


class LRASPPHead(Block):
    PARTS = words("cbr scale low_classifier high_classifier")

    def forward(self, x: Named) -> torch.Tensor:
        low, high = x["low"], x["high"]
        y = self.cbr(high) * self.scale(high)
        return self.low_classifier(low) + self.high_classifier(as_large(y, low))


class ASPP(Block):
    PARTS = words("convs project")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], 1))


class ASPPPooling(nn.Sequential):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return as_large(super().forward(input), input)


def as_large(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
