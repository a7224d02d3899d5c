"""mmsegmentation's networks: from pictures that are normalised already to scores [N, classes, H, W], of their size.

Sources: the papers that each class names; the names of parts and attributes are those in the files.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.openmmlab_blocks.bricks import resized
from score.architectures.openmmlab_blocks.classifiers import Network

MOST_CROPS = 10_000  # of a picture that is looked at in parts
Features = Sequence[torch.Tensor]


class Segmentor(Network):
    PARTS, MAY = words("backbone decode_head"), words("neck auxiliary_head data_preprocessor")
    KEPT, NEEDS = Network.KEPT | words("test_cfg"), words("test_cfg")

    def unknown(self) -> str:
        mode = self.test_cfg.get("mode", "whole")
        if mode == "slide":
            sides = [*self.test_cfg["crop_size"], *self.test_cfg["stride"]]
            return "" if len(sides) == 4 and all(type(each) is int and each > 0 for each in sides) else "test_cfg"
        return "" if mode == "whole" else "test_cfg"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.in_parts(x) if self.test_cfg.get("mode") == "slide" else self.whole(x)

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone(x)
        neck = self._modules.get("neck")
        head = self.decode_head
        return resized(head(features if neck is None else neck(features)), x.shape[2:], head.align_corners)

    def in_parts(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of what is said in windows that overlap."""
        (crop_high, crop_wide), (step_down, step_across) = self.test_cfg["crop_size"], self.test_cfg["stride"]
        high, wide = x.shape[2:]
        tops, lefts = _starts(high, crop_high, step_down), _starts(wide, crop_wide, step_across)
        if len(tops) * len(lefts) > MOST_CROPS:
            raise ValueError(f"{len(tops) * len(lefts):,} windows of a picture")
        found, times = None, x.new_zeros((len(x), 1, high, wide))
        for top in tops:
            for left in lefts:
                bottom, right = min(top + crop_high, high), min(left + crop_wide, wide)
                part = self.whole(x[:, :, top:bottom, left:right])
                part = F.pad(part, (left, wide - right, top, high - bottom))
                found = part if found is None else found + part
                times[:, :, top:bottom, left:right] += 1
        assert found is not None
        return found / times


def _starts(size: int, crop: int, step: int) -> list[int]:
    """Where windows begin, the last of which ends where the picture does."""
    return [max(min(at * step + crop, size) - crop, 0) for at in range(max(size - crop + step - 1, 0) // step + 1)]


class DecodeHead(Block):
    """From the features that it takes to scores."""

    MAY = words("loss_decode sampler dropout")
    KEPT = words("input_transform in_index align_corners")
    NEEDS = words("input_transform in_index align_corners")

    def unknown(self) -> str:
        return "" if self.input_transform in (None, "resize_concat", "multiple_select") else "input_transform"

    def taken(self, features: Features) -> Any:
        if self.input_transform is None:
            return features[self.in_index]
        some = [features[at] for at in self.in_index]
        if self.input_transform == "multiple_select":
            return some
        return torch.cat([self.sized(each, some[0]) for each in some], 1)

    def sized(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return resized(x, like.shape[2:], self.align_corners)

    def told(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_seg(x)


class FCNHead(DecodeHead):
    """Long 2014."""

    PARTS, MAY = words("conv_seg convs"), DecodeHead.MAY | words("conv_cat")
    KEPT = NEEDS = DecodeHead.KEPT | words("concat_input")

    def forward(self, features: Features) -> torch.Tensor:
        x = self.taken(features)
        y = self.convs(x)
        return self.told(self.conv_cat(torch.cat([x, y], 1)) if self.concat_input else y)


class Pyramid(Block, nn.ModuleList):
    """Pictures pooled to several sizes, as large as they were again (Zhao 2016)."""

    ANY = True
    KEPT = NEEDS = words("align_corners")

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [resized(part(x), x.shape[2:], self.align_corners) for part in self]


class PSPHead(DecodeHead):
    PARTS = words("conv_seg psp_modules bottleneck")

    def forward(self, features: Features) -> torch.Tensor:
        return self.told(self.pooled(self.taken(features)))

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return self.bottleneck(torch.cat([x, *self.psp_modules(x)], 1))


class Side(Block, nn.ModuleList):
    """Parts side by side."""

    ANY = True

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [part(x) for part in self]


class ASPPHead(DecodeHead):
    """Chen 2017."""

    PARTS = words("conv_seg image_pool aspp_modules bottleneck")

    def forward(self, features: Features) -> torch.Tensor:
        return self.told(self.seen(self.taken(features)))

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        return self.bottleneck(torch.cat([self.sized(self.image_pool(x), x), *self.aspp_modules(x)], 1))


class SeparableASPPHead(ASPPHead):
    """Chen 2018."""

    PARTS, MAY = ASPPHead.PARTS | words("sep_bottleneck"), ASPPHead.MAY | words("c1_bottleneck")

    def forward(self, features: Features) -> torch.Tensor:
        x = self.seen(self.taken(features))
        if self._modules.get("c1_bottleneck") is not None:
            fine = self.c1_bottleneck(features[0])
            x = torch.cat([self.sized(x, fine), fine], 1)
        return self.told(self.sep_bottleneck(x))


class UPerHead(PSPHead):
    """Xiao 2018."""

    PARTS = PSPHead.PARTS | words("lateral_convs fpn_convs fpn_bottleneck")

    def forward(self, features: Features) -> torch.Tensor:
        given = self.taken(features)
        levels = [conv(each) for conv, each in zip(self.lateral_convs, given, strict=False)]
        levels.append(self.pooled(given[-1]))
        for at in range(len(levels) - 1, 0, -1):
            levels[at - 1] = levels[at - 1] + self.sized(levels[at], levels[at - 1])
        found = [*(conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)), levels[-1]]
        found = [found[0], *(self.sized(each, found[0]) for each in found[1:])]
        return self.told(self.fpn_bottleneck(torch.cat(found, 1)))


class SegformerHead(DecodeHead):
    """Xie 2021."""

    PARTS = words("conv_seg convs fusion_conv")
    KEPT = NEEDS = DecodeHead.KEPT | words("interpolate_mode")

    def forward(self, features: Features) -> torch.Tensor:
        given = self.taken(features)
        size, mode = given[0].shape[2:], self.interpolate_mode
        found = [
            resized(conv(each), size, self.align_corners, mode) for conv, each in zip(self.convs, given, strict=True)
        ]
        return self.told(self.fusion_conv(torch.cat(found, 1)))


class FPNHead(DecodeHead):
    """Kirillov 2019."""

    PARTS = words("conv_seg scale_heads")

    def forward(self, features: Features) -> torch.Tensor:
        first, *rest = zip(self.scale_heads, self.taken(features), strict=True)
        x = first[0](first[1])
        for part, feature in rest:
            x = x + self.sized(part(feature), x)
        return self.told(x)


class Upsample(Block):
    KEPT = NEEDS = words("size scale_factor mode align_corners")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.size or [int(side * self.scale_factor) for side in x.shape[-2:]]
        return resized(x, tuple(size), self.align_corners, self.mode)


class UNet(Block):
    """Ronneberger 2015."""

    PARTS = words("encoder decoder")

    def forward(self, x: torch.Tensor) -> Features:
        before = []
        for part in self.encoder:
            x = part(x)
            before.append(x)
        found = [x]
        for at in reversed(range(len(self.decoder))):
            x = self.decoder[at](before[at], x)
            found.append(x)
        return found


class ConvBlock(Block):
    PARTS = words("convs")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class InterpConv(Block):
    PARTS = words("interp_upsample")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.interp_upsample(x)


class Deconv(Block):
    PARTS = words("deconv_upsamping")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deconv_upsamping(x)


class UpBlock(Block):
    PARTS = words("conv_block upsample")

    def forward(self, skip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.conv_block(torch.cat([skip, self.upsample(x)], 1))
