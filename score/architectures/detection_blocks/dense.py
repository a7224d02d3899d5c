"""Detectors that look once, everywhere: RetinaNet (Lin 2017), FCOS (Tian 2019), SSD (Liu 2015)."""

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.detection_blocks import boxes
from score.architectures.detection_blocks.boxes import BoxCoder, BoxLinearCoder, Size
from score.architectures.detection_blocks.detector import Detector, Found, per_picture, rows_of

Looked = tuple[list[torch.Tensor], list[torch.Tensor]]
"""Scores [N, A, classes] and codes [N, A, 4], for each feature."""


class Dense(Detector):
    """Of each feature, the likeliest places; of all of them, those that overlap no better one."""

    PARTS = words("transform backbone anchor_generator head")
    KEPT = NEEDS = words("box_coder score_thresh nms_thresh detections_per_img topk_candidates")

    def unknown(self) -> str:
        counts = all(type(each) is int and each > 0 for each in (self.detections_per_img, self.topk_candidates))
        return "" if counts and isinstance(self.box_coder, (BoxCoder, BoxLinearCoder)) else "box_coder"

    def found(self, features: dict[str, torch.Tensor], framed: torch.Size, size: Size) -> list[Found]:
        given = list(features.values())
        scores, codes = self.head(given)
        anchors = self.anchor_generator(framed, given)
        return [self.kept(score, code, anchors, size) for score, code in per_picture(scores, codes)]

    def kept(
        self, scores: list[torch.Tensor], codes: list[torch.Tensor], anchors: list[torch.Tensor], size: Size
    ) -> Found:
        """Of one picture."""
        some = [self._likely(*each) for each in zip(scores, codes, anchors, strict=True)]
        score, label, box = (torch.cat([each[at] for each in some]) for at in range(3))
        return self._apart(score, label, boxes.clipped(box, size))

    def _apart(self, score: torch.Tensor, label: torch.Tensor, box: torch.Tensor) -> Found:
        kept = boxes.suppressed(box, score, label, self.nms_thresh, self.detections_per_img)
        return {"boxes": box[kept], "scores": score[kept], "labels": label[kept]}

    def _likely(
        self, scores: torch.Tensor, codes: torch.Tensor, anchors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        flat = scores.flatten()
        good = (flat > self.score_thresh).nonzero()[:, 0]
        best, order = flat[good].topk(min(self.topk_candidates, len(good)))
        good = good[order]
        places, labels = good // scores.shape[1], good % scores.shape[1]
        return best, labels, self.box_coder.decode(codes[places], anchors[places])[:, 0]


class SSD(Dense):
    """Each class by itself, the first of which is that there is nothing."""

    def kept(
        self, scores: list[torch.Tensor], codes: list[torch.Tensor], anchors: list[torch.Tensor], size: Size
    ) -> Found:
        box = boxes.clipped(self.box_coder.decode(torch.cat(codes), torch.cat(anchors))[:, 0], size)
        likely = torch.cat(scores).softmax(-1)
        found = []
        for label in range(1, likely.shape[1]):
            good = (likely[:, label] > self.score_thresh).nonzero()[:, 0]
            best, order = likely[good, label].topk(min(self.topk_candidates, len(good)))
            found.append((best, torch.full_like(order, label), box[good[order]]))
        return self._apart(*(torch.cat([each[at] for each in found]) for at in range(3)))


class RetinaHead(Block):
    PARTS = words("classification_head regression_head")

    def forward(self, features: list[torch.Tensor]) -> Looked:
        return [each.sigmoid() for each in self.classification_head(features)], self.regression_head(features)


class Scores(Block):
    """A score for each class."""

    PARTS = words("conv cls_logits")
    KEPT = NEEDS = words("num_classes")

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return [rows_of(self.cls_logits(self.conv(each)), self.num_classes) for each in features]


class Ways(Block):
    PARTS = words("conv bbox_reg")

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return [rows_of(self.bbox_reg(self.conv(each)), 4) for each in features]


class FCOSHead(Block):
    """A score counts less the farther its place is from the middle of the box."""

    PARTS = words("classification_head regression_head")

    def forward(self, features: list[torch.Tensor]) -> Looked:
        scores = self.classification_head(features)
        ways, middles = self.regression_head(features)
        pairs = zip(scores, middles, strict=True)
        return [torch.sqrt(score.sigmoid() * middle.sigmoid()) for score, middle in pairs], ways


class FCOSWays(Block):
    PARTS = words("conv bbox_reg bbox_ctrness")

    def forward(self, features: list[torch.Tensor]) -> Looked:
        looked = [self.conv(each) for each in features]
        ways = [rows_of(F.relu(self.bbox_reg(each)), 4) for each in looked]
        return ways, [rows_of(self.bbox_ctrness(each), 1) for each in looked]


class SSDHead(Block):
    PARTS = words("classification_head regression_head")

    def forward(self, features: list[torch.Tensor]) -> Looked:
        return self.classification_head(features), self.regression_head(features)


class PerFeature(Block):
    """A part for each feature."""

    PARTS = words("module_list")
    KEPT = NEEDS = words("num_columns")

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        parts: nn.ModuleList = self.module_list
        return [rows_of(part(each), self.num_columns) for part, each in zip(parts, features, strict=True)]
