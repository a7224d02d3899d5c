"""mmdetection's heads that look at each place of a feature once."""

from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.detection_blocks.boxes import Size
from score.architectures.detection_blocks.detector import Found, rows_of
from score.architectures.openmmlab_blocks import priors
from score.architectures.openmmlab_blocks.priors import AnchorGenerator, DeltaCoder, DistanceCoder, PointGenerator

Features = tuple[torch.Tensor, ...]
_CODERS = (DeltaCoder, DistanceCoder)


class Level(NamedTuple):
    """Of one picture's feature: scores [A, classes], codes [A, 4], what the scores count by [A], and the places."""

    scores: torch.Tensor
    codes: torch.Tensor
    by: torch.Tensor | None
    grid: torch.Tensor


class DenseHead(Block):
    """Of each feature, the likeliest places; of all of them, those that overlap no better one."""

    MAY = words("relu loss_cls loss_bbox loss_centerness loss_obj loss_bbox_l1 loss_l1")
    KEPT = words("bbox_coder prior_generator test_cfg use_sigmoid_cls cls_out_channels")
    NEEDS = words("prior_generator test_cfg use_sigmoid_cls cls_out_channels bbox_coder")
    ASKED: tuple[str, ...] = ("nms_pre", "score_thr", "max_per_img")

    def unknown(self) -> str:
        known = isinstance(self.bbox_coder, _CODERS) and not self.bbox_coder.odd
        if not known or not isinstance(self.prior_generator, (AnchorGenerator, PointGenerator)):
            return "bbox_coder"
        few = self.test_cfg.get("nms_pre", 1) <= 0  # which mmdetection takes for all but one
        return "nms_pre" if few else priors.unusual(self.test_cfg, *self.ASKED)

    def look(self, x: torch.Tensor, at: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Of the feature `at`: scores, codes, and what the scores count by, which not all heads have."""
        raise NotImplementedError

    def forward(self, features: Features, size: Size) -> list[Found]:
        looked = [self.look(x, at) for at, x in enumerate(features)]
        grids = self.prior_generator.grid([scores for scores, _, _ in looked])
        levels = [
            (
                rows_of(scores, self.cls_out_channels),
                rows_of(codes, 4),
                None if by is None else rows_of(by, 1)[..., 0].sigmoid(),
            )
            for scores, codes, by in looked
        ]
        return [
            self.of_picture(
                [
                    Level(scores[at], codes[at], None if by is None else by[at], grid)
                    for (scores, codes, by), grid in zip(levels, grids, strict=True)
                ],
                size,
            )
            for at in range(len(features[0]))
        ]

    def likely(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.sigmoid() if self.use_sigmoid_cls else scores.softmax(-1)[:, :-1]

    def of_picture(self, levels: list[Level], size: Size) -> Found:
        some = [self._best(level) for level in levels]
        score, label, codes, grid = (torch.cat([each[at] for each in some]) for at in range(4))
        box = self.bbox_coder.decode(grid, codes, size)
        good = priors.large(box, self.test_cfg.get("min_bbox_size", -1))
        return priors.kept(box[good], score[good], label[good], self.test_cfg)

    def _best(self, level: Level) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        likely = self.likely(level.scores)
        good = likely > self.test_cfg["score_thr"]
        best, order = likely[good].sort(descending=True)
        most = self.test_cfg["nms_pre"]
        places, labels = good.nonzero()[order[:most]].unbind(1)
        best = best[:most] if level.by is None else best[:most] * level.by[places]
        return best, labels, level.codes[places], level.grid[places]


class RetinaHead(DenseHead):
    """Lin 2017."""

    PARTS = words("cls_convs reg_convs retina_cls retina_reg")

    def look(self, x: torch.Tensor, at: int) -> tuple[torch.Tensor, torch.Tensor, None]:
        return self.retina_cls(through(self.cls_convs, x)), self.retina_reg(through(self.reg_convs, x)), None


def through(parts: Any, x: torch.Tensor) -> torch.Tensor:
    for part in parts:
        x = part(x)
    return x


class ATSSHead(DenseHead):
    """Zhang 2020."""

    PARTS = words("cls_convs reg_convs atss_cls atss_reg atss_centerness scales")

    def look(self, x: torch.Tensor, at: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        way = through(self.reg_convs, x)
        codes = self.scales[at](self.atss_reg(way)).float()
        return self.atss_cls(through(self.cls_convs, x)), codes, self.atss_centerness(way)


class FCOSHead(DenseHead):
    """Tian 2019."""

    PARTS = words("cls_convs reg_convs conv_cls conv_reg conv_centerness scales")
    KEPT = NEEDS = DenseHead.KEPT | words("strides norm_on_bbox centerness_on_reg")

    def look(self, x: torch.Tensor, at: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kind, way = through(self.cls_convs, x), through(self.reg_convs, x)
        codes = self.scales[at](self.conv_reg(way)).float()
        codes = codes.clamp(min=0) * self.strides[at] if self.norm_on_bbox else codes.exp()
        return self.conv_cls(kind), codes, self.conv_centerness(way if self.centerness_on_reg else kind)


class RTMDetHead(DenseHead):
    """Lyu 2022; layers of its own for each feature, but for their convolutions' weights."""

    PARTS, MAY = words("cls_convs reg_convs rtm_cls rtm_reg"), DenseHead.MAY | words("scales rtm_obj")
    KEPT = DenseHead.KEPT | words("with_objectness exp_on_reg")
    NEEDS = DenseHead.NEEDS | words("with_objectness exp_on_reg")

    def unknown(self) -> str:
        return "with_objectness" if self.with_objectness else super().unknown()

    def look(self, x: torch.Tensor, at: int) -> tuple[torch.Tensor, torch.Tensor, None]:
        codes = self.rtm_reg[at](through(self.reg_convs[at], x))
        codes = codes.exp() if self.exp_on_reg else codes
        return self.rtm_cls[at](through(self.cls_convs[at], x)), codes * self.prior_generator.strides[at][0], None


class YOLOXHead(DenseHead):
    """Ge 2021; boxes are not kept within the picture."""

    PARTS = words("multi_level_cls_convs multi_level_reg_convs") | words(
        "multi_level_conv_cls multi_level_conv_reg multi_level_conv_obj"
    )
    NEEDS = words("prior_generator test_cfg cls_out_channels")

    def unknown(self) -> str:
        points = isinstance(self.prior_generator, PointGenerator)
        return priors.unusual(self.test_cfg, "score_thr") if points else "prior_generator"

    def look(self, x: torch.Tensor, at: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kind, way = self.multi_level_cls_convs[at](x), self.multi_level_reg_convs[at](x)
        codes, there = self.multi_level_conv_reg[at](way), self.multi_level_conv_obj[at](way)
        return self.multi_level_conv_cls[at](kind), codes, there

    def forward(self, features: Features, size: Size) -> list[Found]:
        looked = [self.look(x, at) for at, x in enumerate(features)]
        maps = [scores for scores, _, _ in looked]
        points = torch.cat(self.prior_generator.grid(maps))
        steps = torch.cat(self.prior_generator.steps(maps))
        scores = torch.cat([rows_of(each, self.cls_out_channels) for each, _, _ in looked], 1).sigmoid()
        codes = torch.cat([rows_of(each, 4) for _, each, _ in looked], 1)
        there = torch.cat([rows_of(each, 1)[..., 0] for _, _, each in looked], 1).sigmoid()
        middle, sides = codes[..., :2] * steps + points, codes[..., 2:].exp() * steps
        box = torch.cat([middle - sides / 2, middle + sides / 2], -1)
        best, labels = scores.max(-1)
        found = []
        for at in range(len(box)):
            score = best[at] * there[at]
            good = score >= self.test_cfg["score_thr"]
            found.append(priors.kept(box[at][good], score[good], labels[at][good], {"nms": self.test_cfg["nms"]}))
        return found


class RPNHead(DenseHead):
    """Boxes that may hold something, per picture (Ren 2015)."""

    PARTS = words("rpn_conv rpn_cls rpn_reg")
    ASKED = ("nms_pre", "max_per_img")

    def look(self, x: torch.Tensor, at: int) -> tuple[torch.Tensor, torch.Tensor, None]:
        x = F.relu(self.rpn_conv(x))
        return self.rpn_cls(x), self.rpn_reg(x), None

    def of_picture(self, levels: list[Level], size: Size) -> Found:
        some = []
        for at, (scores, codes, _, grid) in enumerate(levels):
            likely, most = self.likely(scores)[:, 0], self.test_cfg["nms_pre"]
            if len(likely) > most:
                likely, order = likely.sort(descending=True)
                likely, codes, grid = likely[:most], codes[order[:most]], grid[order[:most]]
            some.append((likely, torch.full_like(likely, at, dtype=torch.long), codes, grid))
        score, level, code, grid = (torch.cat([each[at] for each in some]) for at in range(4))
        box = self.bbox_coder.decode(grid, code, size)
        good = priors.large(box, self.test_cfg.get("min_bbox_size", -1))
        return priors.kept(box[good], score[good], level[good], self.test_cfg)
