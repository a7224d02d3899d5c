"""Boxes read in features, and masks of boxes put into pictures, as detectron2 and mmdetection have it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.detection_blocks import boxes
from score.architectures.detection_blocks.boxes import Size
from score.architectures.detection_blocks.rcnn import MOST_POINTS

Boxes = list[torch.Tensor]
"""[K, 4] for each picture."""


class Align(Block):
    """Reads boxes [K, 4] of the pictures `owners` [K] in a feature: [K, C, *output_size]."""

    KEPT = words("output_size spatial_scale sampling_ratio pool_mode aligned")
    NEEDS = words("output_size spatial_scale sampling_ratio")

    def unknown(self) -> str:
        sides = (*self.output_size, max(self.sampling_ratio, 1))
        good = len(sides) == 3 and all(type(each) is int and 0 < each < MOST_POINTS for each in sides)
        other = self.__dict__.get("pool_mode", "avg") != "avg"
        return "pool_mode" if other else "" if good else "output_size"

    def forward(self, x: torch.Tensor, box: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        size: Any = tuple(self.output_size)
        middles = bool(self.__dict__.get("aligned", True))
        return boxes.aligned(x, box, owners, self.spatial_scale, size, self.sampling_ratio, middles=middles)


def read(layers: nn.ModuleList, features: Sequence[torch.Tensor], given: Boxes, levels: torch.Tensor) -> torch.Tensor:
    """Each box in the feature of its level, or in the only one: [K, C, h, w]."""
    box = torch.cat(given)
    owners = torch.cat([torch.full((len(each),), at, device=box.device) for at, each in enumerate(given)])
    if len(layers) == 1:
        return layers[0](features[0], box, owners)  # type: ignore[no-any-return]
    size: Any = layers[0].output_size
    found = box.new_zeros(len(box), features[0].shape[1], *size)
    for level, (layer, x) in enumerate(zip(layers, features, strict=False)):
        at = (levels == level).nonzero()[:, 0]
        found[at] = layer(x, box[at], owners[at])
    return found


def pasted(maps: torch.Tensor, box: torch.Tensor, size: Size, least: float) -> torch.Tensor:
    """Maps [K, h, w] of boxes as masks of the picture, bool[K, H, W]: what is at least as likely as that."""
    high, wide = size
    masks = torch.zeros((len(maps), high, wide), dtype=torch.bool, device=maps.device)
    for at in range(len(maps)):
        left, top = (int(each) for each in (box[at, :2].floor() - 1).clamp(min=0))
        right, bottom = min(int(box[at, 2].ceil()) + 1, wide), min(int(box[at, 3].ceil()) + 1, high)
        if right <= left or bottom <= top:
            continue
        grid = torch.stack(
            torch.meshgrid(
                _within(top, bottom, box[at, 1], box[at, 3]),
                _within(left, right, box[at, 0], box[at, 2]),
                indexing="ij",
            )[::-1],
            -1,
        )
        found = F.grid_sample(maps[at][None, None].float(), grid[None], align_corners=False)[0, 0]
        masks[at, top:bottom, left:right] = found >= least
    return masks


def _within(start: int, end: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The middles of pixels as places of a box, from -1 to 1."""
    found = (torch.arange(start, end, device=low.device).float() + 0.5 - low) / (high - low) * 2 - 1
    return torch.where(torch.isinf(found), torch.zeros_like(found), found)
