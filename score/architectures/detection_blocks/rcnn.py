"""Faster R-CNN (Ren 2015), Mask R-CNN and Keypoint R-CNN (He 2017): proposals, and a second look at each."""

import math
from typing import Any

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.detection_blocks import boxes
from score.architectures.detection_blocks.boxes import BoxCoder, Size
from score.architectures.detection_blocks.detector import Detector, Found, per_picture, rows_of

SMALLEST = 1e-2  # pixels of a box's sides
PADDING = 1  # pixels around a mask
MOST_POINTS = 100  # along a side of what is read in a box


class RCNN(Detector):
    PARTS = words("transform backbone rpn roi_heads")

    def found(self, features: dict[str, torch.Tensor], framed: torch.Size, size: Size) -> list[Found]:
        return self.roi_heads(features, self.rpn(features, framed, size), size)

    def restored(self, found: Found, size: Size, before: Size) -> Found:
        found = super().restored(found, size, before)
        if "masks" in found:
            found["masks"] = _pasted(found["masks"], found["boxes"], before)
        if "keypoints" in found:
            points = boxes.scaled(found["keypoints"][..., [0, 1, 0, 1]], size, before)[..., :2]
            found["keypoints"] = torch.cat((points, found["keypoints"][..., 2:]), -1)
        return found


class RegionProposals(Block):
    """Boxes that may hold something, per picture."""

    PARTS = words("anchor_generator head")
    KEPT = words("box_coder _pre_nms_top_n _post_nms_top_n nms_thresh score_thresh min_size")
    NEEDS = words("box_coder _pre_nms_top_n _post_nms_top_n nms_thresh min_size")

    def unknown(self) -> str:
        counts = [self._pre_nms_top_n["testing"], self._post_nms_top_n["testing"]]
        good = isinstance(self.box_coder, BoxCoder) and all(type(each) is int and each > 0 for each in counts)
        return "" if good else "box_coder"

    def forward(self, features: dict[str, torch.Tensor], framed: torch.Size, size: Size) -> list[torch.Tensor]:
        given = list(features.values())
        looked = [self.head(each) for each in given]
        anchors = self.anchor_generator(framed, given)
        scores = [rows_of(logits, 1)[..., 0] for logits, _ in looked]
        codes = [rows_of(way, 4) for _, way in looked]
        return [self._kept(score, code, anchors, size) for score, code in per_picture(scores, codes)]

    def _kept(
        self, scores: list[torch.Tensor], codes: list[torch.Tensor], anchors: list[torch.Tensor], size: Size
    ) -> torch.Tensor:
        likely, found, levels = [], [], []
        for at, (logits, code, anchor) in enumerate(zip(scores, codes, anchors, strict=True)):
            best, places = logits.topk(min(self._pre_nms_top_n["testing"], len(logits)))
            likely.append(best.sigmoid())
            found.append(self.box_coder.decode(code[places], anchor[places])[:, 0])
            levels.append(torch.full_like(places, at))
        score, box, level = torch.cat(likely), boxes.clipped(torch.cat(found), size), torch.cat(levels)
        good = boxes.at_least(box, self.min_size) & (score >= self.__dict__.get("score_thresh", 0.0))
        score, box, level = score[good], box[good], level[good]
        return box[boxes.suppressed(box, score, level, self.nms_thresh, self._post_nms_top_n["testing"])]


class ProposalHead(Block):
    """Of one feature: whether there is something, and where; until 0.13, its first layer was not activated itself."""

    PARTS = words("conv cls_logits bbox_pred")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.conv(x)
        x = F.relu(x) if isinstance(self.conv, torch.nn.Conv2d) else x
        return self.cls_logits(x), self.bbox_pred(x)


class RoIHeads(Block):
    """What is in each proposal."""

    PARTS = words("box_roi_pool box_head box_predictor")
    MAY = words("mask_roi_pool mask_head mask_predictor keypoint_roi_pool keypoint_head keypoint_predictor")
    KEPT = NEEDS = words("box_coder score_thresh nms_thresh detections_per_img")

    def unknown(self) -> str:
        return "" if isinstance(self.box_coder, BoxCoder) and type(self.detections_per_img) is int else "box_coder"

    def forward(self, features: dict[str, torch.Tensor], proposals: list[torch.Tensor], size: Size) -> list[Found]:
        logits, codes = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, size)))
        counts = [len(each) for each in proposals]
        decoded = self.box_coder.decode(codes, torch.cat(proposals))
        found = [
            self._kept(box, score, size)
            for box, score in zip(decoded.split(counts), logits.softmax(-1).split(counts), strict=True)
        ]
        for kind, add in (("mask", _masks), ("keypoint", _keypoints)):
            if f"{kind}_predictor" in self._modules:
                pool, head, predict = (self._modules[f"{kind}_{part}"] for part in ("roi_pool", "head", "predictor"))
                looked = predict(head(pool(features, [each["boxes"] for each in found], size)))  # type: ignore[misc]
                for each, maps in zip(found, looked.split([len(each["boxes"]) for each in found]), strict=True):
                    each.update(add(maps, each))
        return found

    def _kept(self, decoded: torch.Tensor, scores: torch.Tensor, size: Size) -> Found:
        """Of boxes [P, classes, 4] and scores [P, classes], without the first class, which is that there is nothing."""
        labels = torch.arange(1, scores.shape[1], device=scores.device).expand(len(scores), -1).reshape(-1)
        box, score = boxes.clipped(decoded, size)[:, 1:].reshape(-1, 4), scores[:, 1:].reshape(-1)
        good = (score > self.score_thresh).nonzero()[:, 0]
        good = good[boxes.at_least(box[good], SMALLEST)]
        box, score, label = box[good], score[good], labels[good]
        kept = boxes.suppressed(box, score, label, self.nms_thresh, self.detections_per_img)
        return {"boxes": box[kept], "labels": label[kept], "scores": score[kept]}


class MultiScaleAlign(Block):
    """Reads each box in the feature of its size (Lin 2016, equation 1)."""

    KEPT = words("featmap_names sampling_ratio output_size canonical_scale canonical_level")
    NEEDS = words("featmap_names sampling_ratio output_size")

    def unknown(self) -> str:
        sides = (*self.output_size, max(self.sampling_ratio, 1))
        good = len(sides) == 3 and all(type(each) is int and 0 < each < MOST_POINTS for each in sides)
        return "" if good else "output_size"

    def forward(self, features: dict[str, torch.Tensor], given: list[torch.Tensor], size: Size) -> torch.Tensor:
        read = [each for name, each in features.items() if name in map(str, self.featmap_names)]
        box = torch.cat(given)
        owners = torch.cat([torch.full((len(each),), at, device=box.device) for at, each in enumerate(given)])
        scales = [2.0 ** float(torch.tensor(each.shape[-2] / size[0]).log2().round()) for each in read]
        out: Any = tuple(self.output_size)
        if len(read) == 1:
            return boxes.aligned(read[0], box, owners, scales[0], out, self.sampling_ratio)
        levels = self._levels(box, int(-math.log2(scales[0])), int(-math.log2(scales[-1])))
        found = box.new_zeros(len(box), read[0].shape[1], *out)
        for level, (feature, scale) in enumerate(zip(read, scales, strict=True)):
            at = (levels == level).nonzero()[:, 0]
            found[at] = boxes.aligned(feature, box[at], owners[at], scale, out, self.sampling_ratio)
        return found

    def _levels(self, box: torch.Tensor, least: int, most: int) -> torch.Tensor:
        said = self.__dict__
        side = torch.sqrt((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))
        level = said.get("canonical_level", 4) + torch.log2(side / said.get("canonical_scale", 224)) + 1e-6
        return level.floor().clamp(least, most).long() - least


class TwoLayers(Block):
    PARTS = words("fc6 fc7")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class Predictor(Block):
    PARTS = words("cls_score bbox_pred")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x)


class KeypointPredictor(Block):
    PARTS = words("kps_score_lowres")
    KEPT = NEEDS = words("up_scale")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.kps_score_lowres(x)
        factor = float(self.up_scale)
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False)


def _masks(logits: torch.Tensor, found: Found) -> Found:
    """The likelihood of each pixel of a box, for its class: [K, 1, h, w]."""
    return {"masks": logits.sigmoid()[torch.arange(len(logits), device=logits.device), found["labels"]][:, None]}


def _keypoints(maps: torch.Tensor, found: Found) -> Found:
    """The likeliest place for each point within its box: x, y and 1, and its score."""
    points, scores = maps.new_zeros(len(maps), maps.shape[1], 3), maps.new_zeros(len(maps), maps.shape[1])
    for at, (heat, box) in enumerate(zip(maps, found["boxes"], strict=True)):
        wide, high = (box[2:] - box[:2]).clamp(min=1).unbind(0)
        columns, rows = int(wide.ceil()), int(high.ceil())
        heat = F.interpolate(heat[:, None], size=(rows, columns), mode="bicubic", align_corners=False)[:, 0]
        scores[at], place = heat.flatten(1).max(1)
        points[at, :, 0] = (place % columns + 0.5) * (wide / columns) + box[0]
        points[at, :, 1] = (place // columns + 0.5) * (high / rows) + box[1]
        points[at, :, 2] = 1
    return {"keypoints": points, "keypoints_scores": scores}


def _pasted(masks: torch.Tensor, box: torch.Tensor, size: Size) -> torch.Tensor:
    """Masks [K, 1, h, w] of boxes as masks of the whole picture: [K, 1, *size]."""
    grown = (masks.shape[-1] + 2 * PADDING) / masks.shape[-1]
    masks = F.pad(masks, (PADDING,) * 4)
    middle, half = (box[:, 2:] + box[:, :2]) * 0.5, (box[:, 2:] - box[:, :2]) * 0.5 * grown
    found = masks.new_zeros(len(masks), 1, *size)
    for at, (left, top, right, bottom) in enumerate(torch.cat((middle - half, middle + half), 1).long().tolist()):
        wide, high = max(right - left + 1, 1), max(bottom - top + 1, 1)
        mask = F.interpolate(masks[at, None], size=(high, wide), mode="bilinear", align_corners=False)[0, 0]
        x0, x1, y0, y1 = max(left, 0), min(right + 1, size[1]), max(top, 0), min(bottom + 1, size[0])
        found[at, 0, y0:y1, x0:x1] = mask[y0 - top : y1 - top, x0 - left : x1 - left]
    return found
