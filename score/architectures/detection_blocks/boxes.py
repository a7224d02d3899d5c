"""Boxes [K, 4] as corners in pixels (left, top, right, bottom): decoded, clipped, suppressed; features read in them.

Sources: Girshick 2014 (the codes of boxes), Tian 2019 (distances to the sides), He 2017 (RoIAlign).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from score.architectures.yolo.suppression import Limits, greedy

TOGETHER = 4000  # numbers up to which all classes are suppressed at once, each moved away from the others
AT_ONCE = 64  # boxes that features are read in at a time
Size = tuple[int, int]


@dataclass(frozen=True)
class BoxCoder:
    """A box as its middle's way from another's, in that one's sizes, and the logarithms of how much larger it is; each
    in units of `weights`."""

    weights: tuple[float, ...]
    bbox_xform_clip: float

    def decode(self, codes: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Codes [A, 4 x C] of boxes [A, 4]: [A, C, 4]."""
        wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        x, y = boxes[:, 0] + 0.5 * wide, boxes[:, 1] + 0.5 * high
        dx, dy, dw, dh = (codes[:, at::4] / weight for at, weight in enumerate(self.weights))
        dw, dh = dw.clamp(max=self.bbox_xform_clip), dh.clamp(max=self.bbox_xform_clip)
        x, y = dx * wide[:, None] + x[:, None], dy * high[:, None] + y[:, None]
        half_wide, half_high = 0.5 * (dw.exp() * wide[:, None]), 0.5 * (dh.exp() * high[:, None])
        return torch.stack((x - half_wide, y - half_high, x + half_wide, y + half_high), 2)


@dataclass(frozen=True)
class BoxLinearCoder:
    """A box as its sides' distances from the middle of another, in that one's sizes or in pixels."""

    normalize_by_size: bool

    def decode(self, codes: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Codes [A, 4] of boxes [A, 4]: [A, 1, 4]."""
        x, y = 0.5 * (boxes[:, 0] + boxes[:, 2]), 0.5 * (boxes[:, 1] + boxes[:, 3])
        if self.normalize_by_size:
            codes = codes * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        left, top, right, bottom = codes.unbind(1)
        return torch.stack((x - left, y - top, x + right, y + bottom), 1)[:, None]


def clipped(boxes: torch.Tensor, size: Size) -> torch.Tensor:
    """Boxes [..., 4] within a picture of that height and width."""
    high, wide = size
    x, y = boxes[..., 0::2].clamp(0, wide), boxes[..., 1::2].clamp(0, high)
    return torch.stack((x, y), -1).flatten(-2)


def at_least(boxes: torch.Tensor, size: float) -> torch.Tensor:
    """Which boxes are of that size or more: bool[K]."""
    return (boxes[:, 2] - boxes[:, 0] >= size) & (boxes[:, 3] - boxes[:, 1] >= size)


def scaled(boxes: torch.Tensor, before: Size, after: Size) -> torch.Tensor:
    """Boxes of a picture of one size in the same picture of another."""
    high, wide = (
        torch.tensor(new, dtype=torch.float32) / torch.tensor(old, dtype=torch.float32)
        for new, old in zip(after, before, strict=True)
    )
    return boxes * torch.stack((wide, high, wide, high)).to(boxes)


def suppressed(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, overlap: float, most: int
) -> torch.Tensor:
    """The places of boxes that overlap no better one of their group, best first."""
    limits = Limits(overlap=overlap, most=most)
    if boxes.numel() > TOGETHER:
        kept = [_greedy(boxes, scores, (groups == group).nonzero()[:, 0], limits) for group in groups.unique()]
        places = torch.cat(kept).sort().values
        return places[scores[places].sort(descending=True).indices][:most]
    if not len(boxes):
        return groups
    moved = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    return _greedy(moved, scores, torch.arange(len(boxes), device=boxes.device), limits)


def _greedy(boxes: torch.Tensor, scores: torch.Tensor, places: torch.Tensor, limits: Limits) -> torch.Tensor:
    places = places[scores[places].argsort(descending=True, stable=True)]
    return places[greedy(boxes[places], limits)]


def aligned(
    features: torch.Tensor,
    boxes: torch.Tensor,
    owners: torch.Tensor,
    scale: float,
    size: Size,
    sampling: int,
    *,
    middles: bool = False,
) -> torch.Tensor:
    """RoIAlign: features [N, C, H, W], `scale` times as large as the pictures, read in boxes [K, 4] of the pictures
    `owners` [K] at the middles of a grid of `size`, or at `sampling` points along each side of its cells; as many as
    the box is large where that is 0: [K, C, *size]. Where a pixel's place is its middle, `middles`, and not its corner,
    boxes may be smaller than a pixel."""
    boxes = boxes * scale - (0.5 if middles else 0.0)
    sides = boxes[:, 2:] - boxes[:, :2]
    sides = sides if middles else sides.clamp(min=1.0)
    cells = sides / boxes.new_tensor((size[1], size[0]))
    found = features.new_zeros(len(boxes), features.shape[1], *size)
    for points, places in _alike(cells, sampling):
        for some in places.split(AT_ONCE):
            x = _points(boxes[some, 0], cells[some, 0], size[1], points[0])
            y = _points(boxes[some, 1], cells[some, 1], size[0], points[1])
            read = _read(features, owners[some], y, x)
            found[some] = read.unflatten(3, (size[1], -1)).unflatten(2, (size[0], -1)).mean((3, 5))
    return found


def _alike(cells: torch.Tensor, sampling: int) -> Iterator[tuple[Size, torch.Tensor]]:
    """The boxes that are read at equally many points along each side of a cell, across and down."""
    if sampling > 0:
        yield (sampling, sampling), torch.arange(len(cells), device=cells.device)
        return
    counts = cells.ceil().long()
    counts = counts * (counts > 0).all(1, keepdim=True)
    for pair in counts.unique(dim=0):
        across, down = pair.tolist()
        if not across:
            continue  # a box without an area, in which nothing is read
        yield (across, down), (counts == pair).all(1).nonzero()[:, 0]


def _points(start: torch.Tensor, cell: torch.Tensor, cells: int, points: int) -> torch.Tensor:
    """Where a side is read: [K, cells x points]."""
    at = torch.arange(cells, device=start.device)[:, None]
    within = (torch.arange(points, device=start.device) + 0.5)[None]
    found = start[:, None, None] + at * cell[:, None, None] + within * (cell / points)[:, None, None]
    return found.flatten(1)


def _read(features: torch.Tensor, owners: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Features [N, C, H, W] between their pixels, at y [K, I] and x [K, J]: [K, C, I, J]; zero outside of them."""
    (y0, y1, fy, in_y), (x0, x1, fx, in_x) = _between(y, features.shape[2]), _between(x, features.shape[3])
    rows = owners[:, None, None]

    def at(down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        return features[rows, :, down[:, :, None], across[:, None, :]]  # [K, I, J, C]

    fy, fx = fy[:, :, None, None], fx[:, None, :, None]
    found = (1 - fy) * (1 - fx) * at(y0, x0) + (1 - fy) * fx * at(y0, x1)
    found = found + fy * (1 - fx) * at(y1, x0) + fy * fx * at(y1, x1)
    inside = (in_y[:, :, None] & in_x[:, None, :])[..., None]
    return torch.where(inside, found, 0.0).permute(0, 3, 1, 2)


def _between(at: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pixels before and behind, how far it is from the first, and whether that is within a pixel of the picture."""
    inside = (at >= -1.0) & (at <= size)
    at = at.clamp(min=0)
    low = at.long().clamp(max=size - 1)
    last = low >= size - 1
    share = torch.where(last, 0.0, at - low)
    return low, torch.where(last, low, low + 1), share, inside
