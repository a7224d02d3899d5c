"""detectron2's R-CNN (Ren 2015, He 2017) and RetinaNet (Lin 2017): pictures in, what is on them out, in their pixels.

Pictures are not resized: by how much is said by a configuration that is no part of the network.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from score.architectures.block import Block, words
from score.architectures.detection_blocks import boxes, regions
from score.architectures.detection_blocks.backbones import Named
from score.architectures.detection_blocks.boxes import BoxCoder, Size
from score.architectures.detection_blocks.detector import Found, framed, per_picture, rows_of
from score.architectures.detection_blocks.regions import Boxes

_LIKELY = 0.5  # from which on a pixel belongs to a mask


@dataclass(frozen=True)
class BoxTransform:
    """How a box is coded."""

    weights: tuple[float, ...]
    scale_clamp: float

    def decode(self, codes: torch.Tensor, priors: torch.Tensor) -> torch.Tensor:
        """[A, C, 4]."""
        return BoxCoder(self.weights, self.scale_clamp).decode(codes, priors)


class Detector(Block):
    """Finds what is on each of some pictures [N, C, H, W] of one size, in 0 to 1."""

    KEPT = NEEDS = words("input_format")
    takes: ClassVar[str] = "float32[N, 3, ?, ?]"
    recipe_of_images: ClassVar[str] = "pixels"

    def unknown(self) -> str:
        return "" if self.input_format in ("BGR", "RGB") else "input_format"

    def forward(self, pictures: torch.Tensor) -> list[Found]:
        x = pictures * 255.0
        x = ((x if self.input_format == "RGB" else x.flip(1)) - self.pixel_mean) / self.pixel_std
        size = (pictures.shape[-2], pictures.shape[-1])
        found = self.found(self.backbone(framed(x, max(self.backbone._size_divisibility, 1))), size)
        return [_with_area(each) for each in found]

    def found(self, features: Named, size: Size) -> list[Found]:
        raise NotImplementedError


def _with_area(found: Found) -> Found:
    sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
    good = (sides > 0).all(1)
    return {name: value[good] for name, value in found.items()}


class RCNN(Detector):
    PARTS = words("backbone proposal_generator roi_heads")

    def found(self, features: Named, size: Size) -> list[Found]:
        return self.roi_heads(features, self.proposal_generator(features, size), size)


class RPN(Block):
    """Boxes that may hold something, per picture."""

    PARTS = words("rpn_head anchor_generator")
    KEPT = NEEDS = words("in_features box2box_transform pre_nms_topk post_nms_topk nms_thresh min_box_size")

    def unknown(self) -> str:
        counts = [self.pre_nms_topk["False"], self.post_nms_topk["False"]]
        good = isinstance(self.box2box_transform, BoxTransform) and all(type(each) is int for each in counts)
        return "" if good and min(counts) > 0 else "box2box_transform"

    def forward(self, features: Named, size: Size) -> Boxes:
        given = [features[name] for name in self.in_features]
        looked = [self.rpn_head(x) for x in given]
        anchors = self.anchor_generator(given)
        scores = [rows_of(logits, 1)[..., 0] for logits, _ in looked]
        codes = [rows_of(way, 4) for _, way in looked]
        return [self._kept(score, code, anchors, size) for score, code in per_picture(scores, codes)]

    def _kept(self, scores: Boxes, codes: Boxes, anchors: Boxes, size: Size) -> torch.Tensor:
        some, found, levels = [], [], []
        for at, (logits, code, anchor) in enumerate(zip(scores, codes, anchors, strict=True)):
            best, places = logits.topk(min(self.pre_nms_topk["False"], len(logits)))
            some.append(best)
            found.append(self.box2box_transform.decode(code[places], anchor[places])[:, 0])
            levels.append(torch.full_like(places, at))
        score, box, level = torch.cat(some), torch.cat(found), torch.cat(levels)
        good = box.isfinite().all(1) & score.isfinite()
        score, box, level = score[good], boxes.clipped(box[good], size), level[good]
        good = ((box[:, 2:] - box[:, :2]) > self.min_box_size).all(1)
        score, box, level = score[good], box[good], level[good]
        return box[boxes.suppressed(box, score, level, self.nms_thresh, self.post_nms_topk["False"])]


class RPNHead(Block):
    PARTS = words("conv objectness_logits anchor_deltas")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.conv(x)
        return self.objectness_logits(x), self.anchor_deltas(x)


class ROIHeads(Block):
    """What is in each proposal."""

    PARTS, MAY = words("box_pooler box_head box_predictor"), words("mask_pooler mask_head")
    KEPT = words("box_in_features in_features mask_on mask_in_features keypoint_on")

    def unknown(self) -> str:
        said = self.__dict__
        masked = bool(said.get("mask_on")) == ("mask_head" in self._modules)
        return "keypoint_on" if said.get("keypoint_on") or not masked else "" if self.named("box") else "in_features"

    def named(self, kind: str) -> Any:
        said = self.__dict__
        return said.get(f"{kind}_in_features") or said.get("in_features") or said.get("box_in_features")

    def forward(self, features: Named, proposals: Boxes, size: Size) -> list[Found]:
        read = self.box_pooler([features[name] for name in self.named("box")], proposals)
        found = self.box_predictor(self.box_head(read), proposals, size)
        if "mask_head" in self._modules:
            given = [each["boxes"] for each in found]
            maps = self.mask_head(self.mask_pooler([features[name] for name in self.named("mask")], given)).sigmoid()
            for each, some in zip(found, maps.split([len(box) for box in given]), strict=True):
                some = some[:, 0] if some.shape[1] == 1 else some[torch.arange(len(some)), each["labels"]]
                each["masks"] = regions.pasted(some, each["boxes"], size, _LIKELY)
        return found


class BoxPredictor(Block):
    """Scores, of which the last is that there is nothing, and codes, for each class or for all."""

    PARTS = words("cls_score bbox_pred")
    KEPT = words("box2box_transform test_score_thresh test_nms_thresh test_topk_per_image use_sigmoid_ce")
    NEEDS = words("box2box_transform test_score_thresh test_nms_thresh test_topk_per_image")

    def unknown(self) -> str:
        return "" if isinstance(self.box2box_transform, BoxTransform) else "box2box_transform"

    def forward(self, x: torch.Tensor, proposals: Boxes, size: Size) -> list[Found]:
        x, counts = x.flatten(1), [len(each) for each in proposals]
        logits = self.cls_score(x)
        scores = logits.sigmoid() if self.__dict__.get("use_sigmoid_ce") else logits.softmax(-1)
        decoded = self.box2box_transform.decode(self.bbox_pred(x), torch.cat(proposals))
        rows = zip(decoded.split(counts), scores.split(counts), strict=True)
        return [self._kept(box, score, size) for box, score in rows]

    def _kept(self, box: torch.Tensor, score: torch.Tensor, size: Size) -> Found:
        good = box.isfinite().flatten(1).all(1) & score.isfinite().all(1)
        box, score = boxes.clipped(box[good], size), score[good, :-1]
        places, labels = (score > self.test_score_thresh).nonzero().unbind(1)
        box = box[places, torch.zeros_like(labels) if box.shape[1] == 1 else labels]
        score, most = score[places, labels], self.test_topk_per_image
        some = boxes.suppressed(box, score, labels, self.test_nms_thresh, most if most >= 0 else len(box))
        return {"boxes": box[some], "scores": score[some], "labels": labels[some]}


class ROIPooler(Block):
    """Reads each box in the feature of its size (Lin 2016, equation 1)."""

    PARTS = words("level_poolers")
    KEPT = NEEDS = words("min_level max_level canonical_level canonical_box_size")

    def forward(self, features: list[torch.Tensor], given: Boxes) -> torch.Tensor:
        box = torch.cat(given)
        sides = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).sqrt()
        levels = torch.floor(self.canonical_level + torch.log2(sides / self.canonical_box_size + 1e-8))
        levels = levels.clamp(self.min_level, self.max_level).long() - self.min_level
        return regions.read(self.level_poolers, features, given, levels)


class RetinaNet(Detector):
    """Of each feature, the likeliest places; of all of them, those that overlap no better one."""

    PARTS = words("backbone head anchor_generator")
    KEPT = NEEDS = (
        Detector.KEPT
        | words("head_in_features box2box_transform test_score_thresh test_topk_candidates test_nms_thresh num_classes")
        | words("max_detections_per_image")
    )

    def unknown(self) -> str:
        return super().unknown() or ("" if isinstance(self.box2box_transform, BoxTransform) else "box2box_transform")

    def found(self, features: Named, size: Size) -> list[Found]:
        given = [features[name] for name in self.head_in_features]
        looked = [self.head(x) for x in given]
        anchors = self.anchor_generator(given)
        scores = [rows_of(logits, self.num_classes).sigmoid() for logits, _ in looked]
        codes = [rows_of(way, 4) for _, way in looked]
        return [self._kept(score, code, anchors, size) for score, code in per_picture(scores, codes)]

    def _kept(self, scores: Boxes, codes: Boxes, anchors: Boxes, size: Size) -> Found:
        some = []
        for score, code, anchor in zip(scores, codes, anchors, strict=True):
            good = score > self.test_score_thresh
            places = good.nonzero()
            best, order = score[good].topk(min(len(places), self.test_topk_candidates))
            rows, labels = places[order].unbind(1)
            some.append((best, labels, self.box2box_transform.decode(code[rows], anchor[rows])[:, 0]))
        best, label, box = (torch.cat([each[at] for each in some]) for at in range(3))
        kept = boxes.suppressed(box, best, label, self.test_nms_thresh, self.max_detections_per_image)
        return {"boxes": boxes.clipped(box[kept], size), "scores": best[kept], "labels": label[kept]}


class RetinaNetHead(Block):
    PARTS = words("cls_subnet bbox_subnet cls_score bbox_pred")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cls_score(self.cls_subnet(x)), self.bbox_pred(self.bbox_subnet(x))
