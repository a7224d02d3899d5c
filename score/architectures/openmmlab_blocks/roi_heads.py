"""mmdetection's second look at each proposal: Faster R-CNN (Ren 2015), Mask R-CNN (He 2017), Cascade (Cai 2018)."""

from typing import Any

import torch

from score.architectures.block import Block, words
from score.architectures.detection_blocks import regions
from score.architectures.detection_blocks.boxes import Size
from score.architectures.detection_blocks.detector import Found
from score.architectures.detection_blocks.regions import Boxes
from score.architectures.openmmlab_blocks import priors
from score.architectures.openmmlab_blocks.dense_heads import Features, through
from score.architectures.openmmlab_blocks.priors import DeltaCoder


class RoIExtractor(Block):
    """Reads each box in the feature of its size (Lin 2016)."""

    PARTS = words("roi_layers")
    KEPT = NEEDS = words("finest_scale out_channels")

    def forward(self, features: Features, given: Boxes) -> torch.Tensor:
        box, most = torch.cat(given), len(self.roi_layers) - 1
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        levels = torch.floor(torch.log2(area.sqrt() / self.finest_scale + 1e-6)).clamp(0, most).long()
        return regions.read(self.roi_layers, features, given, levels)


class BBoxHead(Block):
    """From what was read in a box to scores, of which the last is that there is nothing, and codes."""

    PARTS = words("fc_cls fc_reg")
    MAY = words("avg_pool relu loss_cls loss_bbox shared_convs shared_fcs cls_convs cls_fcs reg_convs reg_fcs")
    KEPT = words("bbox_coder reg_class_agnostic num_classes with_avg_pool")
    NEEDS = words("bbox_coder reg_class_agnostic num_classes with_avg_pool")

    def unknown(self) -> str:
        return "" if isinstance(self.bbox_coder, DeltaCoder) and not self.bbox_coder.odd else "bbox_coder"

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self._through("shared", x)
        return self.fc_cls(self._flat(self._through("cls", x))), self.fc_reg(self._flat(self._through("reg", x)))

    def _through(self, branch: str, x: torch.Tensor) -> torch.Tensor:
        x = through(self._modules.get(f"{branch}_convs") or (), x)
        for layer in self._modules.get(f"{branch}_fcs") or ():  # type: ignore[union-attr]
            x = self.relu(layer(self._flat(x)))
        return x

    def _flat(self, x: torch.Tensor) -> torch.Tensor:
        return (self.avg_pool(x) if self.with_avg_pool and x.dim() > 2 else x).flatten(1)

    def decoded(self, proposals: torch.Tensor, codes: torch.Tensor, size: Size) -> torch.Tensor:
        """Boxes [P, classes, 4], or [P, 1, 4] where these share one."""
        count = 1 if self.reg_class_agnostic else self.num_classes
        found = self.bbox_coder.decode(proposals.repeat_interleave(count, 0), codes.reshape(-1, 4), size)
        return found.view(-1, count, 4)

    def found(self, proposals: torch.Tensor, scores: torch.Tensor, codes: torch.Tensor, size: Size, said: Any) -> Found:
        """Of one picture, as its test configuration says."""
        likely = scores.softmax(-1)[:, :-1]
        box = self.decoded(proposals, codes, size).expand(-1, likely.shape[1], 4).reshape(-1, 4)
        score = likely.reshape(-1)
        label = torch.arange(likely.shape[1], device=score.device).expand_as(likely).reshape(-1)
        good = score > said["score_thr"]
        return priors.kept(box[good], score[good], label[good], said)

    def refined(self, proposals: torch.Tensor, scores: torch.Tensor, codes: torch.Tensor, size: Size) -> torch.Tensor:
        """The box of the likeliest class of each proposal: [P, 4]."""
        found = self.decoded(proposals, codes, size)
        if self.reg_class_agnostic:
            return found[:, 0]
        best = scores[:, :-1].argmax(1)
        return found[torch.arange(len(best), device=best.device), best]


class MaskHead(Block):
    PARTS, MAY = words("convs conv_logits"), words("upsample relu loss_mask")
    KEPT = NEEDS = words("class_agnostic upsample_method")

    def unknown(self) -> str:
        return "" if self.upsample_method in (None, "deconv", "nearest", "bilinear") else "upsample_method"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = through(self.convs, x)
        if self._modules.get("upsample") is not None:
            x = self.upsample(x)
            x = self.relu(x) if self.upsample_method == "deconv" else x
        return self.conv_logits(x).sigmoid()

    def of_labels(self, maps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One map a box: [K, h, w]."""
        return maps[:, 0] if self.class_agnostic else maps[torch.arange(len(labels), device=labels.device), labels]


class StandardRoIHead(Block):
    PARTS, MAY = words("bbox_roi_extractor bbox_head"), words("mask_roi_extractor mask_head")
    KEPT = NEEDS = words("test_cfg")

    def unknown(self) -> str:
        asked = ("score_thr", "max_per_img", *(("mask_thr_binary",) if "mask_head" in self._modules else ()))
        return priors.unusual(self.test_cfg, *asked)

    def forward(self, features: Features, proposals: Boxes, size: Size) -> list[Found]:
        found = self.boxed(features, proposals, size)
        if "mask_head" in self._modules:
            counts = [len(each["boxes"]) for each in found]
            given = [each["boxes"] for each in found]
            for each, maps in zip(found, self.masked(features, given).split(counts), strict=True):
                head = self.last(self.mask_head)
                each["masks"] = regions.pasted(head.of_labels(maps, each["labels"]), each["boxes"], size, self._least)
        return found

    @property
    def _least(self) -> float:
        return float(self.test_cfg["mask_thr_binary"])

    def last(self, head: Any) -> Any:
        return head

    def boxed(self, features: Features, proposals: Boxes, size: Size) -> list[Found]:
        counts = [len(each) for each in proposals]
        scores, codes = self.bbox_head(self.bbox_roi_extractor(features, proposals))
        rows = zip(proposals, scores.split(counts), codes.split(counts), strict=True)
        return [self.bbox_head.found(*row, size, self.test_cfg) for row in rows]

    def masked(self, features: Features, given: Boxes) -> torch.Tensor:
        return self.mask_head(self.mask_roi_extractor(features, given))


class CascadeRoIHead(StandardRoIHead):
    """Each head looks at the boxes of the one before; scores, and masks, are the mean of all."""

    def last(self, head: Any) -> Any:
        return head[-1]

    def boxed(self, features: Features, proposals: Boxes, size: Size) -> list[Found]:
        counts = [len(each) for each in proposals]
        told, codes, count = [], torch.empty(0), len(self.bbox_head)
        for at, (read, head) in enumerate(zip(self.bbox_roi_extractor, self.bbox_head, strict=True)):
            scores, codes = head(read(features, proposals))
            told.append(scores)
            if at < count - 1:
                rows = zip(proposals, scores.split(counts), codes.split(counts), strict=True)
                proposals = [head.refined(*row, size) for row in rows]
        mean = sum(told[1:], told[0]) / float(count)
        rows = zip(proposals, mean.split(counts), codes.split(counts), strict=True)
        return [self.bbox_head[-1].found(*row, size, self.test_cfg) for row in rows]

    def masked(self, features: Features, given: Boxes) -> torch.Tensor:
        pairs = zip(self.mask_roi_extractor, self.mask_head, strict=True)
        return torch.stack([head(read(features, given)) for read, head in pairs]).mean(0)
