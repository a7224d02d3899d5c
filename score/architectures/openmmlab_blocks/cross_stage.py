"""Backbones and pyramids of cross-stage blocks (Wang 2020): YOLOX's (Ge 2021) and RTMDet's (Lyu 2022)."""

import torch
from torch import nn

from score.architectures.block import Block, words
from score.architectures.openmmlab_blocks.convolutions import Features, Stages


class CSPBackbone(Stages):
    LISTED = "layers"
    PARTS, MAY = words("stem stage1"), words("stage2 stage3 stage4 stage5")
    KEPT = NEEDS = words("layers out_indices")


class Focus(Block):
    """Every other pixel, four times."""

    PARTS = words("conv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        return self.conv(torch.cat(corners, 1))


class SPPBottleneck(Block):
    PARTS = words("conv1 poolings conv2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.poolings)], 1))


class CSPLayer(Block):
    PARTS, MAY = words("main_conv short_conv final_conv blocks"), words("attention")
    KEPT = words("channel_attention")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), 1)
        return self.final_conv(self.attention(x) if "attention" in self._modules else x)


class CSPBlock(Block):
    PARTS = words("conv1 conv2")
    KEPT = NEEDS = words("add_identity")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        return y + x if self.add_identity else y


class ChannelAttention(Block):
    PARTS = words("global_avgpool fc act")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.act(self.fc(self.global_avgpool(x)))


class PathAggregation(Block):
    """A pyramid down, and up again (Liu 2018)."""

    PARTS = words("upsample reduce_layers top_down_blocks downsamples bottom_up_blocks out_convs")

    def forward(self, given: Features) -> Features:
        down: list[torch.Tensor] = [given[-1]]
        for reduce, block, x in zip(self.reduce_layers, self.top_down_blocks, reversed(given[:-1]), strict=True):
            down[0] = reduce(down[0])
            down.insert(0, block(torch.cat([self.upsample(down[0]), x], 1)))
        up = [down[0]]
        for smaller, block, x in zip(self.downsamples, self.bottom_up_blocks, down[1:], strict=True):
            up.append(block(torch.cat([smaller(up[-1]), x], 1)))
        convs: nn.ModuleList = self.out_convs
        return tuple(conv(x) for conv, x in zip(convs, up, strict=True))
