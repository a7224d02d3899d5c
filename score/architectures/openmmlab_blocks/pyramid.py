"""OpenMMLab's feature pyramid (Lin 2016), of segmentation and of detection."""

from typing import Any

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words

_FROM = (False, True, "on_input", "on_lateral", "on_output")
MOST_LEVELS = 20


class FPN(Block):
    """A feature of each size, with what the smaller ones say; more of them, each half as large."""

    PARTS = words("lateral_convs fpn_convs")
    KEPT = NEEDS = words("start_level backbone_end_level num_outs add_extra_convs relu_before_extra_convs upsample_cfg")

    def unknown(self) -> str:
        known = self.add_extra_convs in _FROM and set(self.upsample_cfg) <= {"mode", "scale_factor"}
        good = known and type(self.num_outs) is int and self.num_outs <= MOST_LEVELS
        return "" if good else "add_extra_convs"

    def forward(self, given: Any) -> tuple[torch.Tensor, ...]:
        levels = [conv(given[at + self.start_level]) for at, conv in enumerate(self.lateral_convs)]
        for at in range(len(levels) - 1, 0, -1):
            how = dict(self.upsample_cfg)
            if "scale_factor" not in how:
                how["size"] = levels[at - 1].shape[2:]
            levels[at - 1] = levels[at - 1] + F.interpolate(levels[at], **how)
        found = [conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)]
        if not self.add_extra_convs:
            for _ in range(self.num_outs - len(found)):
                found.append(F.max_pool2d(found[-1], 1, stride=2))
            return tuple(found)
        sources = {"on_lateral": levels[-1], "on_output": found[-1]}
        x = sources.get(self.add_extra_convs, given[self.backbone_end_level - 1])
        for at in range(len(levels), self.num_outs):
            x = F.relu(x) if at > len(levels) and self.relu_before_extra_convs else x
            x = self.fpn_convs[at](x)
            found.append(x)
        return tuple(found)
