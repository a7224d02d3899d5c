"""mmdetection's detectors: pictures of any size in, what is on them out, in their pixels.

Pictures are not resized: by how much is said by a pipeline that is no part of the network.
"""

from typing import ClassVar

import torch

from score.architectures.block import Block, words
from score.architectures.detection_blocks.boxes import Size
from score.architectures.detection_blocks.detector import LARGEST, Found, framed
from score.architectures.openmmlab_blocks.classifiers import labels_of


class Pictures(Block):
    """From RGB in 0 to 1 to what the network takes, framed; OpenMMLab reads pictures as BGR in 0 to 255."""

    MAY = words("batch_augments")
    KEPT = words("_channel_conversion _enable_normalize pad_size_divisor pad_value")
    NEEDS = words("_channel_conversion _enable_normalize pad_size_divisor pad_value")

    def unknown(self) -> str:
        good = type(self.pad_size_divisor) is int and 0 < self.pad_size_divisor <= LARGEST
        return "" if good else "pad_size_divisor"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 255.0
        x = x if self._channel_conversion else x.flip(1)
        x = (x - self.mean) / self.std if self._enable_normalize else x
        return framed(x, self.pad_size_divisor, self.pad_value)


class Detector(Block):
    """Finds what is on each of some pictures [N, C, H, W] of one size, in 0 to 1."""

    MAY = words("neck")
    KEPT = words("dataset_meta CLASSES")
    takes: ClassVar[str] = "float32[N, 3, ?, ?]"
    recipe_of_images: ClassVar[str] = "pixels"

    @property
    def labels(self) -> tuple[str, ...] | None:
        return labels_of(self)

    def forward(self, pictures: torch.Tensor) -> list[Found]:
        features = self.backbone(self.data_preprocessor(pictures))
        neck = self._modules.get("neck")
        size = (pictures.shape[-2], pictures.shape[-1])
        return self.found(tuple(features if neck is None else neck(features)), size)

    def found(self, features: tuple[torch.Tensor, ...], size: Size) -> list[Found]:
        raise NotImplementedError


class SingleStage(Detector):
    PARTS = words("data_preprocessor backbone bbox_head")

    def found(self, features: tuple[torch.Tensor, ...], size: Size) -> list[Found]:
        return self.bbox_head(features, size)


class TwoStages(Detector):
    PARTS = words("data_preprocessor backbone rpn_head roi_head")

    def found(self, features: tuple[torch.Tensor, ...], size: Size) -> list[Found]:
        proposals = [each["boxes"] for each in self.rpn_head(features, size)]
        return self.roi_head(features, proposals, size)
