"""What all of torchvision's detectors have in common: pictures of any size in, boxes in their pixels out."""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.detection_blocks import boxes
from score.architectures.detection_blocks.boxes import Size

Found = dict[str, torch.Tensor]
"""What is on one picture: `boxes` [K, 4], `labels` and `scores` [K], best first; `masks` or `keypoints`."""
LARGEST = 1 << 14  # pixels along a side


class Transform(Block):
    """Pictures in 0 to 1, normalised and scaled to the sizes that the network is for, and framed."""

    KEPT = words("min_size max_size image_mean image_std size_divisible fixed_size")
    NEEDS = words("min_size max_size image_mean image_std")

    def unknown(self) -> str:
        said = self.__dict__
        sizes = [*_numbers(self.min_size), *_numbers(said.get("fixed_size"))]
        sizes += [self.max_size, said.get("size_divisible", 32)]
        return "" if all(type(each) is int and 0 < each <= LARGEST for each in sizes) else "min_size"

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, Size]:
        """[N, C, H, W], framed; and the height and width of what is in the frame."""
        mean, std = (pictures.new_tensor(each)[:, None, None] for each in (self.image_mean, self.image_std))
        pictures = (pictures - mean) / std
        high, wide = pictures.shape[-2:]
        if fixed := self.__dict__.get("fixed_size"):
            pictures = F.interpolate(pictures, size=(fixed[1], fixed[0]), mode="bilinear", align_corners=False)
        else:
            factor = min(_numbers(self.min_size)[-1] / min(high, wide), self.max_size / max(high, wide))
            pictures = F.interpolate(
                pictures, scale_factor=factor, mode="bilinear", recompute_scale_factor=True, align_corners=False
            )
        size = (pictures.shape[-2], pictures.shape[-1])
        return framed(pictures, self.__dict__.get("size_divisible", 32)), size


def _numbers(said: Any) -> list[Any]:
    return list(said) if isinstance(said, (list, tuple)) else [] if said is None else [said]


class Detector(Block):
    """Finds what is on each of some pictures [N, C, H, W] of one size, in 0 to 1."""

    takes: ClassVar[str] = "float32[N, 3, ?, ?]"
    recipe_of_images: ClassVar[str] = "pixels"

    def forward(self, pictures: torch.Tensor) -> list[Found]:
        whole, size = self.transform(pictures)
        named = self.backbone(whole)
        features = named if isinstance(named, dict) else {"0": named}
        before = (pictures.shape[-2], pictures.shape[-1])
        return [self.restored(found, size, before) for found in self.found(features, whole.shape, size)]

    def found(self, features: dict[str, torch.Tensor], framed: torch.Size, size: Size) -> list[Found]:
        """In the pixels of the scaled pictures, which are of that size within their frame."""
        raise NotImplementedError

    def restored(self, found: Found, size: Size, before: Size) -> Found:
        """In the pixels of the pictures as they were."""
        return {**found, "boxes": boxes.scaled(found["boxes"], size, before)}


def rows_of(x: torch.Tensor, columns: int) -> torch.Tensor:
    """[N, A x columns, h, w] to [N, h x w x A, columns]."""
    rows, _, high, wide = x.shape
    return x.view(rows, -1, columns, high, wide).permute(0, 3, 4, 1, 2).reshape(rows, -1, columns)


def framed(x: torch.Tensor, step: int, value: float = 0.0) -> torch.Tensor:
    """Pictures whose height and width are multiples of `step`, filled up below and to the right."""
    high, wide = (math.ceil(side / step) * step - side for side in x.shape[2:])
    return F.pad(x, (0, wide, 0, high), value=value)


def per_picture(
    scores: list[torch.Tensor], codes: list[torch.Tensor]
) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Of scores and codes for each feature, of all pictures [N, ...], those of each picture."""
    for at in range(len(scores[0])):
        yield [each[at] for each in scores], [each[at] for each in codes]
