"""The heads of YOLO networks: from feature maps to boxes in the network's own pixels, not yet thinned out.

A head gives `Raw`: for each of A places on the maps a box, what each class scores there, and what else it is for.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words

Maps = list[torch.Tensor]


@dataclass(frozen=True)
class Raw:
    """Boxes [N, 4, A], as corners (x, y, x, y) or as middle and size where they are `rotated`; scores [N, classes, A];
    angles [N, 1, A] in radians; keypoints [N, A, points, 2 or 3]; mask coefficients [N, K, A] and prototypes
    [N, K, H, W]. `unique` says that no two boxes are of the same thing, so that none is to be dropped."""

    boxes: torch.Tensor
    scores: torch.Tensor
    angles: torch.Tensor | None = None
    keypoints: torch.Tensor | None = None
    coefficients: torch.Tensor | None = None
    prototypes: torch.Tensor | None = None
    unique: bool = False


class DFL(Block):
    """A distance as the mean of a distribution over whole numbers (Li et al. 2020)."""

    PARTS, KEPT = words("conv"), words("c1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, _, places = x.shape
        shares = x.view(rows, 4, int(self.c1), places).transpose(2, 1).softmax(1)
        return self.conv(shares).view(rows, 4, places)


class Proto(Block):
    """Masks of which each thing's is a mixture."""

    PARTS = words("cv1 upsample cv2 cv3")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Proto26(Block):
    """The same, from all feature maps. `semseg` is for training."""

    PARTS, MAY = words("cv1 upsample cv2 cv3 feat_refine feat_fuse"), words("semseg")

    def forward(self, x: Maps) -> torch.Tensor:
        found = x[0]
        for refine, other in zip(self.feat_refine, x[1:], strict=True):
            found = found + F.interpolate(refine(other), size=found.shape[2:], mode="nearest")
        return self.cv3(self.cv2(self.upsample(self.cv1(self.feat_fuse(found)))))


_DETECT = words("dfl")
_ONE = words("cv2 cv3 one2one_cv2 one2one_cv3")
_KEPT = words("nc nl reg_max no stride")


class Detect(Block):
    """Boxes as four distances from each place, and a score a class. A head may be there twice: for many boxes a thing,
    and for one (`one2one`, Wang et al. 2024), which is used without suppression, where that is said or the only one."""

    PARTS, MAY, KEPT = _DETECT, _ONE, _KEPT
    overlap = 0.7  # from which two boxes are of one thing, where nothing else is said
    suppressed = True  # whether the head for many boxes is used, where there are two

    def forward(self, x: Maps) -> Raw:
        places, strides = _places(x, self.stride)
        distances, scores = self._found(x)
        left_top, right_bottom = distances.chunk(2, 1)
        boxes = torch.cat((places - left_top, places + right_bottom), 1) * strides
        return Raw(boxes, scores.sigmoid(), unique=self.unique)

    @property
    def unique(self) -> bool:
        many, one = (self._modules.get(name) is not None for name in ("cv2", "one2one_cv2"))
        return one and not (many and self.suppressed)

    def _branch(self, name: str) -> nn.Module:
        return self.get_submodule(f"one2one_{name}" if self.unique else name)

    def _found(self, x: Maps) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances [N, 4, A] in strides, and scores [N, classes, A] before the sigmoid."""
        raw = _over(self._branch("cv2"), x)
        return self.dfl(raw), _over(self._branch("cv3"), x)


class Segment(Detect):
    PARTS = _DETECT | words("proto")
    MAY, KEPT = _ONE | words("cv4 one2one_cv4"), _KEPT | words("nm npr")

    def forward(self, x: Maps) -> Raw:
        found = super().forward(x)
        prototypes = self.proto(x if isinstance(self.proto, Proto26) else x[0])
        return _with(found, coefficients=_over(self._branch("cv4"), x), prototypes=prototypes)


class Pose(Detect):
    """Keypoints from each place, with how visible they are where there are three numbers a point."""

    PARTS = _DETECT
    MAY, KEPT = _ONE | words("cv4 one2one_cv4"), _KEPT | words("kpt_shape nk")

    def forward(self, x: Maps) -> Raw:
        return _with(super().forward(x), keypoints=self._points(_over(self._branch("cv4"), x), x, 2.0, 0.5))

    def _points(self, raw: torch.Tensor, x: Maps, factor: float, shift: float) -> torch.Tensor:
        places, strides = _places(x, self.stride)
        points, numbers = (int(size) for size in self.kpt_shape)
        parted = raw.view(len(raw), points, numbers, -1)
        at = (parted[:, :, :2] * factor + (places - shift)) * strides
        seen = [parted[:, :, 2:3].sigmoid()] if numbers == 3 else []
        return torch.cat([at, *seen], 2).permute(0, 3, 1, 2)


class Pose26(Pose):
    """The same from features of their own; `flow_model` and the spread (`sigma`) are for training."""

    PARTS = _DETECT
    MAY = _ONE | words("cv4 cv4_kpts one2one_cv4 one2one_cv4_kpts flow_model cv4_sigma one2one_cv4_sigma")
    KEPT = _KEPT | words("kpt_shape nk nk_sigma")

    def forward(self, x: Maps) -> Raw:
        branch: Any = self._branch("cv4")
        features = [part(each) for part, each in zip(branch, x, strict=True)]
        raw = _over(self._branch("cv4_kpts"), features)
        return _with(Detect.forward(self, x), keypoints=self._points(raw, x, 1.0, 0.0))


class RealNVP(Block):
    """What the spread of keypoints is trained with; nothing is computed with it."""

    PARTS = words("s t")


class OBB(Detect):
    """Boxes that are turned: the distances count along the box's own axes."""

    PARTS = _DETECT
    MAY, KEPT = _ONE | words("cv4 one2one_cv4"), _KEPT | words("ne")

    def forward(self, x: Maps) -> Raw:
        places, strides = _places(x, self.stride)
        distances, scores = self._found(x)
        angles = self._angles(_over(self._branch("cv4"), x))
        left_top, right_bottom = distances.chunk(2, 1)
        across, down = ((right_bottom - left_top) / 2).chunk(2, 1)
        cosine, sine = angles.cos(), angles.sin()
        middle = torch.cat((across * cosine - down * sine, across * sine + down * cosine), 1) + places
        boxes = torch.cat((middle, left_top + right_bottom), 1) * strides
        return Raw(boxes, scores.sigmoid(), angles=angles, unique=self.unique)

    def _angles(self, raw: torch.Tensor) -> torch.Tensor:
        return (raw.sigmoid() - 0.25) * math.pi


class OBB26(OBB):
    def _angles(self, raw: torch.Tensor) -> torch.Tensor:
        return raw


class AnchoredDetect(Block):
    """Boxes as corrections of three given sizes a place: YOLOv3 to v5 (`anchors` in strides), with one score that
    anything is there, by which the classes' are multiplied."""

    PARTS, KEPT = words("m"), words("nc no nl na stride")
    overlap = 0.45

    def forward(self, x: Maps) -> Raw:
        boxes, scores = [], []
        parts: Any = self.m
        for part, found, stride, anchors in zip(parts, x, self.stride, self.anchors, strict=True):
            rows, _, high, wide = found.shape
            raw = part(found).view(rows, int(self.na), int(self.no), high, wide).sigmoid()
            down, across = torch.meshgrid(
                torch.arange(high, device=raw.device), torch.arange(wide, device=raw.device), indexing="ij"
            )
            middle = (raw[:, :, :2] * 2 - 0.5 + torch.stack((across, down))) * stride
            half = (raw[:, :, 2:4] * 2) ** 2 * (anchors * stride).view(1, -1, 2, 1, 1) / 2
            corners = torch.cat((middle - half, middle + half), 2)
            boxes.append(corners.permute(0, 2, 1, 3, 4).reshape(rows, 4, -1))
            classes = raw[:, :, 5:] * raw[:, :, 4:5]
            scores.append(classes.permute(0, 2, 1, 3, 4).reshape(rows, int(self.nc), -1))
        return Raw(torch.cat(boxes, 2), torch.cat(scores, 2))


class Classify(Block):
    PARTS = words("conv pool drop linear")

    def forward(self, x: Any) -> torch.Tensor:
        x = torch.cat(x, 1) if isinstance(x, list) else x
        return self.linear(self.drop(self.pool(self.conv(x)).flatten(1))).softmax(1)


def _with(found: Raw, **more: torch.Tensor) -> Raw:
    return Raw(**{**vars(found), **more})


def _over(branch: Any, x: Maps) -> torch.Tensor:
    """What one part a map gives for all places: [N, channels, A]."""
    return torch.cat([part(each).flatten(2) for part, each in zip(branch, x, strict=True)], 2)


def _places(x: Maps, strides: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The middles of all cells [2, A] as (x, y) in strides, and the stride of each [A]."""
    places, each = [], []
    for found, stride in zip(x, strides, strict=True):
        high, wide = found.shape[2:]
        down, across = torch.meshgrid(
            torch.arange(high, device=found.device, dtype=found.dtype) + 0.5,
            torch.arange(wide, device=found.device, dtype=found.dtype) + 0.5,
            indexing="ij",
        )
        places.append(torch.stack((across, down)).flatten(1))
        each.append(stride.to(found).expand(high * wide))
    return torch.cat(places, 1), torch.cat(each)


HEADS: dict[str, type[Block]] = {
    "DFL": DFL, "Proto": Proto, "Proto26": Proto26, "Detect": Detect, "v10Detect": Detect, "Segment": Segment,
    "Segment26": Segment, "Pose": Pose, "Pose26": Pose26, "OBB": OBB, "OBB26": OBB26, "Classify": Classify,
    "RealNVP": RealNVP,
}  # fmt: skip
