"""timm's Swin transformers, and their blocks, on [N, H, W, C] as timm has them since 0.9.

Sources: the papers that each class names; the names of parts are those in the files.
"""

from typing import Any

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.timm_blocks.network import Network
from score.architectures.timm_blocks.transformers import TransformerBlock


class SwinTransformer(Network):
    """Liu 2021, Liu 2022."""

    PARTS = words("patch_embed layers norm head")
    KEPT = Network.KEPT | words("dynamic_img_size")

    def unknown(self) -> str:
        return "dynamic_img_size" if self.__dict__.get("dynamic_img_size") else ""

    @property
    def size(self) -> tuple[Any, Any]:
        return self.patch_embed.size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        return self.head(self.norm(x))


class SwinStage(Block):
    PARTS = words("downsample blocks")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class PatchMerging(Block):
    PARTS = words("norm reduction")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reduction(self.norm(quarters(x)))


def quarters(x: torch.Tensor) -> torch.Tensor:
    """[N, H, W, C] to [N, H / 2, W / 2, 4 x C]."""
    x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [N, h, 2, w, 2, C]
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)


class PatchMergingV2(Block):
    PARTS = words("reduction norm")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.reduction(quarters(x)))


class SwinBlock(TransformerBlock):
    """Attention within windows [N, H, W, C], which every other block shifts."""

    MAY = words("drop_path1 drop_path2")
    KEPT, NEEDS = words("window_size shift_size dynamic_mask"), words("window_size shift_size")

    def unknown(self) -> str:
        pairs = all(isinstance(each, tuple) and len(each) == 2 for each in (self.window_size, self.shift_size))
        return "dynamic_mask" if self.__dict__.get("dynamic_mask") else "" if pairs else "window_size"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.windows(self.norm1(x))
        return x + self.mlp(self.norm2(x).flatten(1, 2)).view(x.shape)

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        rows, high, wide, channels = x.shape
        (down, across), shift = self.window_size, any(self.shift_size)
        x = torch.roll(x, [-each for each in self.shift_size], (1, 2)) if shift else x
        x = F.pad(x, (0, 0, 0, -wide % across, 0, -high % down))
        tall, broad = x.shape[1:3]
        x = x.unflatten(2, (-1, across)).unflatten(1, (-1, down)).transpose(2, 3)  # [N, h, w, down, across, C]
        x = self.attn(x.reshape(-1, down * across, channels), self._buffers.get("attn_mask"))
        x = x.view(rows, tall // down, broad // across, down, across, channels).transpose(2, 3)
        x = x.reshape(rows, tall, broad, channels)[:, :high, :wide]
        return torch.roll(x, self.shift_size, (1, 2)) if shift else x


class SwinBlockV2(SwinBlock):
    """Liu 2022: normalised after attention and perceptron, not before."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.norm1(self.windows(x))
        return x + self.norm2(self.mlp(x.flatten(1, 2))).view(x.shape)
