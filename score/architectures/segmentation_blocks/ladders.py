"""Decoders that climb from the smallest features to the largest: U-Net, U-Net++, LinkNet, MA-Net."""

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.segmentation_blocks.encoders import DEEPEST, Features
from score.architectures.segmentation_blocks.modules import Doubled


class UnetBlock(Doubled):
    PARTS = words("conv1 attention1 conv2 attention2")

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None, size: torch.Size) -> torch.Tensor:
        x = F.interpolate(x, size=size, mode=self.mode)
        x = x if skip is None else self.attention1(torch.cat((x, skip), 1))
        return self.attention2(self.conv2(self.conv1(x)))


class UnetDecoder(Block):
    PARTS = words("center blocks")

    def forward(self, features: Features) -> torch.Tensor:
        sizes = [each.shape[2:] for each in features[-2::-1]]
        head, *skips = features[:0:-1]
        x = self.center(head)
        for at, block in enumerate(self.blocks):
            x = block(x, skips[at] if at < len(skips) else None, sizes[at])
        return x


class NestedBlock(Doubled):
    """U-Net++'s; `is_empty` where it stands for features of no channels."""

    PARTS = words("conv1 attention1 conv2 attention2")
    KEPT = Doubled.KEPT | words("is_empty")

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        x = self.doubled(x)
        if self.__dict__.get("is_empty"):
            return x[:, :0]
        x = x if skip is None else self.attention1(torch.cat((x, skip), 1))
        return self.attention2(self.conv2(self.conv1(x)))


class NestedDecoder(Block):
    """Zhou 2018: the block `x_I_J` makes what is below it larger, with all that lies between the two."""

    PARTS = words("center blocks")
    KEPT = NEEDS = words("depth")

    def unknown(self) -> str:
        depth = self.depth
        if type(depth) is not int or not 0 < depth < DEEPEST:
            return "depth"
        named = {f"x_{low}_{high}" for high in range(depth) for low in range(high + 1)} | {f"x_0_{depth}"}
        return "" if named == set(self.blocks.keys()) else "blocks"

    def forward(self, features: Features) -> torch.Tensor:
        features, blocks = features[:0:-1], self.blocks
        made: dict[tuple[int, int], torch.Tensor] = {}
        for apart in range(self.depth):
            for low in range(self.depth - apart):
                high = low + apart
                below = features[low] if apart == 0 else made[low, high - 1]
                between = [made[at, high] for at in range(low + 1, high + 1)]
                made[low, high] = blocks[f"x_{low}_{high}"](below, torch.cat((*between, features[high + 1]), 1))
        return blocks[f"x_0_{self.depth}"](made[0, self.depth - 1])  # type: ignore[no-any-return]


class SkippingDecoder(Block):
    """Blocks that each take the features of twice the size beside what comes from below."""

    PARTS, MAY = words("blocks"), words("center")

    def forward(self, features: Features) -> torch.Tensor:
        x, *skips = features[:0:-1]
        x = self.center(x) if "center" in self._modules else x
        for at, block in enumerate(self.blocks):
            x = block(x, skips[at] if at < len(skips) else None)
        return x


class LinkBlock(Block):
    """Chaurasia 2017."""

    PARTS = words("block")

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        x = self.block(x)
        return x if skip is None or skip.shape[1] == 0 else x + skip


class PositionAttention(Block):
    """Fan 2020: MA-Net's. `map_softmax` is over all pairs of places at once."""

    PARTS = words("top_conv center_conv bottom_conv map_softmax out_conv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, _, high, wide = x.shape
        top = self.top_conv(x).flatten(2)
        center, bottom = (conv(x).flatten(2).transpose(1, 2) for conv in (self.center_conv, self.bottom_conv))
        pairs = self.map_softmax((center @ top).view(rows, -1)).view(rows, high * wide, high * wide)
        return self.out_conv(x + (pairs @ bottom).reshape(rows, -1, high, wide))


class FusionBlock(Doubled):
    """MA-Net's attention over the channels of two sizes."""

    PARTS = words("hl_conv SE_ll SE_hl conv1 conv2")

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        x = self.doubled(self.hl_conv(x))
        if skip is not None:
            x = torch.cat((x * (self.SE_hl(x) + self.SE_ll(skip)), skip), 1)
        return self.conv2(self.conv1(x))


class PlainBlock(Doubled):
    PARTS = words("conv1 conv2")

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        x = self.doubled(x)
        return self.conv2(self.conv1(x if skip is None else torch.cat((x, skip), 1)))
