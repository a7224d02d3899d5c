"""Of all boxes of one picture, those that are of different things: non-maximum suppression, per class."""

from dataclasses import dataclass

import torch

MOST_CONSIDERED = 30_000
_APART = 7680  # more than any picture has pixels: boxes of different classes never overlap when moved by multiples


@dataclass(frozen=True)
class Limits:
    """The lowest score that counts, the overlap from which two boxes are of one thing, and the most that are kept."""

    confidence: float = 0.25
    overlap: float = 0.7
    most: int = 300


def kept(
    boxes: torch.Tensor, scores: torch.Tensor, angles: torch.Tensor | None, limits: Limits, *, unique: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The places [K] that are kept, best first, with their scores [K] and classes [K].

    `boxes` is [A, 4], as corners, or as middle and size with `angles` [A]; `scores` is [A, classes]. Of boxes that are
    `unique` the best are kept, each class of a place by itself.
    """
    if unique:
        return _best(scores, limits)
    best, classes = scores.max(1)
    places = (best > limits.confidence).nonzero()[:, 0]
    places = places[best[places].argsort(descending=True, stable=True)[:MOST_CONSIDERED]]
    shift = classes[places, None].to(boxes) * _APART
    if angles is None:
        chosen = greedy(boxes[places] + shift, limits)
    else:
        chosen = _rotated(torch.cat((boxes[places, :2] + shift, boxes[places, 2:]), 1), angles[places], limits)
    places = places[chosen]
    return places, best[places], classes[places]


def _best(scores: torch.Tensor, limits: Limits) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    places = scores.amax(1).topk(min(limits.most, len(scores))).indices
    flat = scores[places].flatten()
    found, at = flat.topk(min(limits.most, len(flat)))
    good = found > limits.confidence
    at = at[good]
    return places[at // scores.shape[1]], found[good], at % scores.shape[1]


def greedy(boxes: torch.Tensor, limits: Limits) -> torch.Tensor:
    """Positions of boxes [K, 4] in order of score, without those that overlap a better one that is kept."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = torch.arange(len(boxes), device=boxes.device)
    chosen: list[torch.Tensor] = []
    while len(left) and len(chosen) < limits.most:
        first, left = left[0], left[1:]
        chosen.append(first)
        corner = torch.minimum(boxes[first, 2:], boxes[left, 2:]) - torch.maximum(boxes[first, :2], boxes[left, :2])
        both = corner.clamp(min=0).prod(1)
        left = left[~(both / (areas[first] + areas[left] - both) > limits.overlap)]  # two without an area stay
    return torch.stack(chosen) if chosen else left


def _rotated(boxes: torch.Tensor, angles: torch.Tensor, limits: Limits) -> torch.Tensor:
    """The same for turned boxes, compared as normal distributions (Llerena et al. 2021): whatever overlaps a better
    one goes, kept or not."""
    a, b, c = _covariances(boxes, angles)
    good = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for at in range(len(boxes)):
        earlier = slice(0, at)
        x, y = (boxes[earlier, :2] - boxes[at, :2]).unbind(1)
        total = (a[earlier] + a[at]) * (b[earlier] + b[at]) - (c[earlier] + c[at]) ** 2
        spread = (a[earlier] + a[at]) * y**2 + (b[earlier] + b[at]) * x**2
        skew = (c[earlier] + c[at]) * -x * y
        own = (a * b - c**2).clamp(min=0)
        tiny = 1e-7
        distance = spread / (total + tiny) / 4 + skew / (total + tiny) / 2
        distance = distance + (total / (4 * (own[earlier] * own[at]).sqrt() + tiny) + tiny).log() / 2
        alike = 1 - (1 - (-distance.clamp(tiny, 100)).exp() + tiny).sqrt()
        good[at] = not bool((alike >= limits.overlap).any())
    return good.nonzero()[: limits.most, 0]


def _covariances(boxes: torch.Tensor, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    wide, high = (boxes[:, 2:] ** 2 / 12).unbind(1)
    cosine, sine = angles.cos(), angles.sin()
    return (
        wide * cosine**2 + high * sine**2,
        wide * sine**2 + high * cosine**2,
        (wide - high) * cosine * sine,
    )
