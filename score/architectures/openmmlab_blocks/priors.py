"""Where boxes are looked for, how they are coded, and which are kept: values that mmdetection's heads hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from score.architectures.detection_blocks import boxes
from score.architectures.detection_blocks.boxes import Size
from score.architectures.detection_blocks.detector import Found

_WIDEST = abs(math.log(16 / 1000))  # how much larger than its anchor a box may be, as a logarithm
_OF_NMS = {"type": "nms", "class_agnostic": False, "split_thr": 10000, "max_num": -1, "score_threshold": 0, "offset": 0}


@dataclass(frozen=True)
class AnchorGenerator:
    """Boxes of several sizes around each place of a feature."""

    strides: Sequence[Sequence[int]]
    base_anchors: Sequence[torch.Tensor]

    def grid(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """[h x w x A, 4] for each feature [N, C, h, w]."""
        found = []
        for x, (across, down), base in zip(features, self.strides, self.base_anchors, strict=True):
            places = _places(x, across, down, 0.0)
            found.append((base.to(x)[None] + places.repeat(1, 2)[:, None]).view(-1, 4))
        return found


@dataclass(frozen=True)
class PointGenerator:
    """The middle, or another point, of each place of a feature."""

    strides: Sequence[Sequence[int]]
    offset: float

    def grid(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """[h x w, 2] for each feature [N, C, h, w]."""
        pairs = zip(features, self.strides, strict=True)
        return [_places(x, across, down, self.offset) for x, (across, down) in pairs]

    def steps(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The strides of each place: [h x w, 2]."""
        pairs = zip(features, self.strides, strict=True)
        return [x.new_tensor(stride).expand(x.shape[2] * x.shape[3], 2) for x, stride in pairs]


def _places(x: torch.Tensor, across: int, down: int, offset: float) -> torch.Tensor:
    high, wide = x.shape[-2:]
    y, x_ = torch.meshgrid(
        (torch.arange(high, device=x.device) + offset) * down,
        (torch.arange(wide, device=x.device) + offset) * across,
        indexing="ij",
    )
    return torch.stack([x_.reshape(-1), y.reshape(-1)], -1).to(x.dtype)


@dataclass(frozen=True)
class DeltaCoder:
    """A box as its middle's way from an anchor's, and how much larger it is (Girshick 2014)."""

    means: Sequence[float]
    stds: Sequence[float]
    clip_border: bool = True
    add_ctr_clamp: bool = False

    @property
    def odd(self) -> bool:
        return self.add_ctr_clamp or len(self.means) != 4 or len(self.stds) != 4

    def decode(self, priors: torch.Tensor, codes: torch.Tensor, size: Size) -> torch.Tensor:
        codes = codes * codes.new_tensor(self.stds)[None] + codes.new_tensor(self.means)[None]
        middle, sides = (priors[:, :2] + priors[:, 2:]) * 0.5, priors[:, 2:] - priors[:, :2]
        middle = middle + sides * codes[:, :2]
        sides = sides * codes[:, 2:].clamp(-_WIDEST, _WIDEST).exp()
        found = torch.cat([middle - sides * 0.5, middle + sides * 0.5], -1)
        return boxes.clipped(found, size) if self.clip_border else found


@dataclass(frozen=True)
class DistanceCoder:
    """A box as how far its sides are from a point (Tian 2019)."""

    clip_border: bool = True

    @property
    def odd(self) -> bool:
        return False

    def decode(self, priors: torch.Tensor, codes: torch.Tensor, size: Size) -> torch.Tensor:
        found = torch.cat([priors - codes[:, :2], priors + codes[:, 2:]], -1)
        return boxes.clipped(found, size) if self.clip_border else found


def unusual(config: Any, *needed: str) -> str:
    """What of a test configuration is not known here; empty where all is."""
    if not isinstance(config, Mapping):
        return "test_cfg"
    if lacking := [name for name in needed if name not in config]:
        return f"test_cfg without {lacking[0]}"
    nms = config.get("nms")
    if not isinstance(nms, Mapping) or not isinstance(nms.get("iou_threshold"), float):
        return "nms"
    return next((name for name, value in nms.items() if name != "iou_threshold" and _OF_NMS.get(name) != value), "")


def kept(box: torch.Tensor, score: torch.Tensor, label: torch.Tensor, config: Mapping[str, Any]) -> Found:
    """The boxes that overlap no better one of their label, best first, as many as there may be."""
    most = config.get("max_per_img", len(box))
    overlap = config["nms"]["iou_threshold"]
    some = boxes.suppressed(box, score, label, overlap, most if most > 0 else len(box))
    return {"boxes": box[some], "scores": score[some], "labels": label[some]}


def large(box: torch.Tensor, least: float) -> torch.Tensor:
    """Which boxes are larger, bool[K]; all where nothing is said, which is a negative number."""
    sides = box[:, 2:] - box[:, :2]
    return (sides > least).all(1) if least >= 0 else torch.ones(len(box), dtype=torch.bool, device=box.device)
