"""Decoders that look at features of several sizes at once: FPN, PAN, PSPNet, DeepLab v3 and v3+, UPerNet."""

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.detection_blocks.masks import as_large
from score.architectures.segmentation_blocks.encoders import Features
from score.architectures.segmentation_blocks.modules import Doubled, Inner


class FPNDecoder(Block):
    """Lin 2016, Kirillov 2019."""

    PARTS = words("p5 p4 p3 p2 seg_blocks merge dropout")

    def forward(self, features: Features) -> torch.Tensor:
        c2, c3, c4, c5 = features[-4:]
        found = [self.p5(c5)]
        for part, skip in ((self.p4, c4), (self.p3, c3), (self.p2, c2)):
            found.append(part(found[-1], skip))
        pairs = zip(self.seg_blocks, found, strict=True)
        return self.dropout(self.merge([block(each) for block, each in pairs]))


class FPNBlock(Doubled):
    PARTS = words("skip_conv")

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.doubled(x) + self.skip_conv(skip)


class GroupedConv(Inner):
    KEPT = NEEDS = words("upsample")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(x)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True) if self.upsample else x


class MergeBlock(Block):
    KEPT = NEEDS = words("policy")

    def unknown(self) -> str:
        return "" if self.policy in ("add", "cat") else "policy"

    def forward(self, found: Features) -> torch.Tensor:
        return torch.stack(found).sum(dim=0) if self.policy == "add" else torch.cat(found, 1)


class PyramidAttention(Block):
    """Li 2018: features of three smaller sizes weigh the largest."""

    PARTS = words("branch1 mid down1 down2 down3 conv1 conv2")
    KEPT = NEEDS = words("upscale_mode align_corners")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high, wide = x.shape[2:]
        least = self.sized(self.branch1(x), high, wide)
        middle, first = self.mid(x), self.down1(x)
        second = self.down2(first)
        y = self.conv2(second) + self.sized(self.down3(second), high // 4, wide // 4)
        y = self.sized(y, high // 2, wide // 2) + self.conv1(first)
        return self.sized(y, high, wide) * middle + least

    def sized(self, x: torch.Tensor, high: int, wide: int) -> torch.Tensor:
        return F.interpolate(x, size=(high, wide), mode=self.upscale_mode, align_corners=self.align_corners)


class GlobalAttention(Block):
    """PAN's way up."""

    PARTS = words("conv1 conv2")
    KEPT, NEEDS = words("interpolation_mode upscale_mode align_corners"), words("align_corners")

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        said = self.__dict__
        mode = said.get("interpolation_mode", said.get("upscale_mode", "bilinear"))
        up = F.interpolate(y, size=x.shape[2:], mode=mode, align_corners=self.align_corners)
        return up + self.conv2(x) * self.conv1(y)


class PANConv(Block):
    PARTS, MAY = words("conv bn"), words("activation")
    KEPT = NEEDS = words("add_relu interpolate")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        x = self.activation(x) if self.add_relu else x
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True) if self.interpolate else x


class PANDecoder(Block):
    PARTS, MAY = words("fpa"), words("gau1 gau2 gau3")

    def forward(self, features: Features) -> torch.Tensor:
        features = features[2:]
        x = self.fpa(features[-1])
        for at in (3, 2, 1):
            x = self._modules[f"gau{at}"](features[at - 1], x) if f"gau{at}" in self._modules else x  # type: ignore[misc]
        return x


class PSPDecoder(Block):
    """Zhao 2016."""

    PARTS = words("psp conv dropout")

    def forward(self, features: Features) -> torch.Tensor:
        return self.dropout(self.conv(self.psp(features[-1])))


class PSPModule(Block):
    PARTS = words("blocks")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((*(block(x) for block in self.blocks), x), 1)


class PSPBlock(Block):
    PARTS = words("pool")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.pool(x), size=x.shape[2:], mode="bilinear", align_corners=True)


class DeepLabDecoder(Block):
    """Chen 2017: what it has, one after the other, on the smallest features."""

    ANY = True

    def forward(self, features: Features) -> torch.Tensor:
        x = features[-1]
        for part in self._modules.values():
            assert part is not None
            x = part(x)
        return x


class DeepLabPlusDecoder(Block):
    """Chen 2018."""

    PARTS = words("aspp up block1 block2")

    def forward(self, features: Features) -> torch.Tensor:
        if len(features) != 6:
            raise ValueError("a DeepLab v3+ of another depth than five, whose versions differ")
        return self.block2(torch.cat((self.up(self.aspp(features[-1])), self.block1(features[2])), 1))


class UPerDecoder(Block):
    """Xiao 2018."""

    PARTS = words("feature_norms psp fpn_lateral_blocks fpn_conv_blocks fusion_block")

    def forward(self, features: Features) -> torch.Tensor:
        features = features[2:]
        for at, norm in enumerate(self.feature_norms):
            features[at] = norm(features[at])
        found = [self.psp(features[-1])]
        for block, skip in zip(self.fpn_lateral_blocks, features[-2::-1], strict=True):
            found.append(block(found[-1], skip))
        found[1:] = [block(each) for block, each in zip(self.fpn_conv_blocks, found[1:], strict=True)]
        return self.fusion_block(torch.cat([as_large(each, found[-1]) for each in reversed(found)], 1))


class UPerPooling(Block):
    PARTS = words("blocks out_conv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_conv(torch.cat((x, *(as_large(block(x), x) for block in self.blocks)), 1))


class UPerLateral(Block):
    PARTS = words("conv_norm_relu")

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        skip = self.conv_norm_relu(skip)
        return as_large(x, skip) + skip
