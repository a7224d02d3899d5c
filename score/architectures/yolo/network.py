"""A YOLO network as a whole: a graph of layers, and for detectors what stands around it: letterbox and suppression."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.yolo import heads, suppression
from score.architectures.yolo.blocks import BLOCKS
from score.architectures.yolo.heads import HEADS, Raw
from score.architectures.yolo.suppression import Limits
from score.errors import InvalidSetting
from score.formats.base import OpaqueObject

GREY = 114 / 255  # what a picture is framed with
DEFAULT_SIZE, MOST_SIZE = 640, 4096


class Network(Block):
    """The layers in their order, each with what earlier ones gave: its `f` says which, -1 being the one before."""

    PARTS = words("model")
    KEPT = words("save names stride kpt_shape")
    takes: ClassVar[str] = "float32[N, 3, ?, ?]"
    recipe_of_images: ClassVar[str] = "pixels"

    def graph(self, x: torch.Tensor) -> Any:
        """What the last layer gives, from pictures [N, 3, H, W] whose sides the strides divide."""
        given: list[Any] = []
        for layer in self.model:
            origin: Any = layer.f
            if origin != -1:
                x = given[origin] if isinstance(origin, int) else _those(given, x, origin)
            x = layer(x)
            given.append(x)
        return x

    def ready(self, size: int | None, limits: Limits) -> None:
        """Take the size that pictures are scaled to, and what counts as found."""
        raise NotImplementedError

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names, as the file has them."""
        names: Any = getattr(self, "names", ())
        if isinstance(names, dict):  # by number, which the reader of attributes has made text
            names = (
                [names[str(at)] for at in range(len(names))]
                if all(str(at) in names for at in range(len(names)))
                else ()
            )
        return tuple(map(str, names))


def _those(given: list[Any], last: Any, places: list[int]) -> Any:
    return [last if at == -1 else given[at] for at in places]


class Classifier(Network):
    """From pictures in 0 to 1 of any size to probabilities [N, classes]: the middle square, scaled."""

    def ready(self, size: int | None, limits: Limits) -> None:
        self.size = size or 224

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        high, wide = images.shape[2:]
        factor = self.size / min(high, wide)
        if factor != 1:
            sides = [max(self.size, int(side * factor)) for side in (high, wide)]
            images = F.interpolate(images, sides, mode="bilinear", align_corners=False, antialias=True)
        top, left = (round((side - self.size) / 2) for side in images.shape[2:])
        return self.graph(images[:, :, top : top + self.size, left : left + self.size])


class Detector(Network):
    """From pictures in 0 to 1 of any size to what is on each: a dict with `boxes` [K, 4] as corners in the picture's
    pixels, `scores` [K] and `labels` [K], best first; and `keypoints` [K, points, 2 or 3] or `masks` [K, H, W]. Boxes
    that are turned are `rotated_boxes` [K, 5]: middle, size, and the angle in radians."""

    def ready(self, size: int | None, limits: Limits) -> None:
        self.limits = limits
        self.step = max(int(self.stride.max()), 32) if isinstance(self.stride, torch.Tensor) else 32
        self.size = math.ceil((size or DEFAULT_SIZE) / self.step) * self.step

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        framed, factor, left, top = self._letterbox(images)
        raw = self.graph(framed)
        high, wide = images.shape[2:]
        return [self._found(raw, row, factor, (left, top), (high, wide)) for row in range(len(images))]

    def _letterbox(self, images: torch.Tensor) -> tuple[torch.Tensor, float, int, int]:
        """Pictures scaled to the network's size and framed so that the strides divide it; the factor and the frame's
        left and top."""
        high, wide = images.shape[2:]
        factor = min(self.size / high, self.size / wide)
        sides = [max(1, round(side * factor)) for side in (high, wide)]
        if sides != [high, wide]:
            images = F.interpolate(images, sides, mode="bilinear", align_corners=False)
        lack = [(-side % self.step) / 2 for side in sides]
        (top, bottom), (left, right) = ((round(each - 0.1), round(each + 0.1)) for each in lack)
        return F.pad(images, (left, right, top, bottom), value=GREY), factor, left, top

    def _found(
        self, raw: Raw, row: int, factor: float, frame: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        angles = None if raw.angles is None else raw.angles[row, 0]
        places, scores, labels = suppression.kept(
            raw.boxes[row].t(), raw.scores[row].t(), angles, self.limits, unique=raw.unique
        )
        shift, edge = raw.boxes.new_tensor(frame), raw.boxes.new_tensor(size[::-1])
        boxes = raw.boxes[row].t()[places]
        found: dict[str, torch.Tensor] = {"scores": scores, "labels": labels}
        if angles is not None:
            turned = torch.cat(((boxes[:, :2] - shift) / factor, boxes[:, 2:] / factor, angles[places, None]), 1)
            return {"rotated_boxes": _regular(turned), **found}
        corners = ((boxes.view(-1, 2, 2) - shift) / factor).clamp(min=0).minimum(edge).view(-1, 4)
        found = {"boxes": corners, **found}
        if raw.keypoints is not None:
            points = raw.keypoints[row][places]
            at = ((points[..., :2] - shift) / factor).clamp(min=0).minimum(edge)
            found["keypoints"] = torch.cat((at, points[..., 2:]), 2)
        if raw.coefficients is not None and raw.prototypes is not None:
            mixture = raw.coefficients[row].t()[places] @ raw.prototypes[row].flatten(1)
            masks = _masks(mixture.view(-1, *raw.prototypes.shape[2:]), corners, size)
            there = masks.flatten(1).any(1)  # a thing of which no pixel is seen is none
            found = {name: value[there] for name, value in {**found, "masks": masks}.items()}
        return found


def _masks(mixtures: torch.Tensor, corners: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks [K, H, W] of the picture's size, each within its box, as bool, from mixtures of prototypes, which have the
    frame too."""
    if not len(mixtures):
        return mixtures.new_zeros((0, *size), dtype=torch.bool)
    factor = min(have / want for have, want in zip(mixtures.shape[1:], size, strict=True))
    frame = [(have - round(want * factor)) / 2 for have, want in zip(mixtures.shape[1:], size, strict=True)]
    (top, bottom), (left, right) = ((round(each - 0.1), round(each + 0.1)) for each in frame)
    inner = mixtures[:, top : mixtures.shape[1] - bottom, left : mixtures.shape[2] - right]
    scaled = F.interpolate(inner[None], size, mode="bilinear", align_corners=False)[0]
    down = torch.arange(size[0], device=scaled.device)[None, :, None]
    across = torch.arange(size[1], device=scaled.device)[None, None]
    x1, y1, x2, y2 = (each[:, None, None] for each in corners.unbind(1))
    return (scaled > 0) & (across >= x1) & (across < x2) & (down >= y1) & (down < y2)


def _regular(boxes: torch.Tensor) -> torch.Tensor:
    """Turned boxes [K, 5] with an angle from 0 to a quarter of a turn."""
    x, y, wide, high, angle = boxes.unbind(1)
    swapped = angle % math.pi >= math.pi / 2
    return torch.stack(
        (x, y, torch.where(swapped, high, wide), torch.where(swapped, wide, high), angle % (math.pi / 2)), 1
    )


_NETWORKS: dict[str, type[Block]] = {
    **dict.fromkeys(("DetectionModel", "SegmentationModel", "PoseModel", "OBBModel"), Detector),
    "ClassificationModel": Classifier,
}
# Where the classes of ultralytics' package are, in its versions, and those of its YOLOv5.
_PACKAGES: dict[str, Mapping[str, type[Block]]] = {
    "ultralytics.nn.modules": {**BLOCKS, **HEADS},
    "ultralytics.nn.tasks": _NETWORKS,
    "ultralytics.yolo.nn.modules": {**BLOCKS, **HEADS},
    "models.common": BLOCKS,
    "models.experimental": BLOCKS,
    "models.yolo": {"Detect": heads.AnchoredDetect, "Model": Detector, "DetectionModel": Detector},
}


def block(path: str) -> type[Block] | None:
    """What computes as a block of a YOLO network does, by its class's path; None for any other class."""
    module, _, name = path.rpartition(".")
    for package in (module, module.rpartition(".")[0]):
        if package in _PACKAGES:
            return _PACKAGES[package].get(name)
    return None


_NUMBERS: dict[str, type | tuple[type, ...]] = {
    "confidence": (int, float), "overlap": (int, float), "most": int, "size": int, "nms": bool,
}  # fmt: skip


def ready(module: Network, pickled: OpaqueObject, kwargs: Mapping[str, Any]) -> Network:
    """The network in single precision, as it is predicted with, whatever it was saved in; with the size of pictures
    that it was trained on, and `kwargs`: `confidence`, `overlap`, `most` (boxes a picture), `size` (pixels), and `nms`,
    false for the head that needs no suppression.

    Raises `InvalidSetting`.
    """
    for name, value in kwargs.items():
        wanted = _NUMBERS.get(name, ())
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MOST_SIZE
        if not isinstance(value, wanted) or (wanted is not bool and not number):
            raise InvalidSetting(
                f"SCORE_ARCHITECTURE_KWARGS has {name}={value!r}; a YOLO network takes {', '.join(_NUMBERS)}"
            )
    said = pickled.attribute("args")
    saved = said.attributes() if isinstance(said, OpaqueObject) else said if isinstance(said, dict) else {}
    size = kwargs.get("size", saved.get("imgsz"))
    said_limits = {name: value for name, value in kwargs.items() if name not in ("size", "nms")}
    for part in module.modules():
        if isinstance(part, (heads.Detect, heads.AnchoredDetect)):
            part.suppressed = bool(kwargs.get("nms", True))
            said_limits.setdefault("overlap", part.overlap)
    limits = Limits(**said_limits)
    module.ready(size if isinstance(size, int) and 0 < size <= MOST_SIZE else None, limits)
    return module.float()
