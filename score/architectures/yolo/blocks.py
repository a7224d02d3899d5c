"""The blocks between a YOLO network's input and its head.

Each class says which parts a file's block of that name may have: one with others is another block of the same name,
and is not computed with. All take and give [N, C, H, W]; those that say so take a list of them.
"""

from typing import Any

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words


class Conv(Block):
    """Convolution, batch normalisation, activation; the normalisation may have been folded into the convolution."""

    PARTS, MAY = words("conv act"), words("bn")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.act(self.bn(x) if "bn" in self._modules else x)


class ConvTranspose(Block):
    PARTS, MAY = words("conv_transpose act"), words("bn")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_transpose(x)
        return self.act(self.bn(x) if "bn" in self._modules else x)


class LightConv(Block):
    PARTS = words("conv1 conv2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


class Focus(Block):
    """Every second pixel of every second line, four times, as channels."""

    PARTS = words("conv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(corners, 1))


class Concat(Block):
    KEPT = words("d")

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(x, self.d)


class Bottleneck(Block):
    PARTS, KEPT = words("cv1 cv2"), words("add")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2(Block):
    PARTS = words("cv1 cv2 m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        through, beside = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((self.m(through), beside), 1))


class C2f(Block):
    """All that the chain of bottlenecks gives on its way, together."""

    PARTS = words("cv1 cv2 m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = list(self.cv1(x).chunk(2, 1))
        for part in self.m:
            found.append(part(found[-1]))
        return self.cv2(torch.cat(found, 1))


class C3(Block):
    PARTS = words("cv1 cv2 cv3 m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class BottleneckCSP(Block):
    PARTS = words("cv1 cv2 cv3 cv4 bn act m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        return self.cv4(self.act(self.bn(both)))


class SPP(Block):
    """The same features seen through windows of several sizes."""

    PARTS = words("cv1 cv2 m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(Block):
    """The same with one small window applied several times, which grows."""

    PARTS, KEPT = words("cv1 cv2 m"), words("n add")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.cv1(x)]
        for _ in range(getattr(self, "n", 3)):
            found.append(self.m(found[-1]))
        y = self.cv2(torch.cat(found, 1))
        return x + y if getattr(self, "add", False) else y


class SPPELAN(Block):
    PARTS = words("cv1 cv2 cv3 cv4 cv5")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.cv1(x)]
        for pool in (self.cv2, self.cv3, self.cv4):
            found.append(pool(found[-1]))
        return self.cv5(torch.cat(found, 1))


class Attention(Block):
    """Self-attention among all positions, with a convolution of the values in place of a positional encoding."""

    PARTS, KEPT = words("qkv proj pe"), words("num_heads head_dim key_dim scale")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, channels, high, wide = x.shape
        sizes: Any = [self.key_dim, self.key_dim, self.head_dim]
        parted = self.qkv(x).view(rows, self.num_heads, sum(sizes), high * wide)
        queries, keys, values = parted.split(sizes, dim=2)
        shares = ((queries.transpose(-2, -1) @ keys) * self.scale).softmax(dim=-1)
        found = (values @ shares.transpose(-2, -1)).view(rows, channels, high, wide)
        return self.proj(found + self.pe(values.reshape(rows, channels, high, wide)))


class PSABlock(Block):
    PARTS, KEPT = words("attn ffn"), words("add")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x) if self.add else self.attn(x)
        return x + self.ffn(x) if self.add else self.ffn(x)


class PSA(Block):
    """Attention for one half of the channels."""

    PARTS = words("cv1 cv2 attn ffn")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside, through = self.cv1(x).chunk(2, 1)
        through = through + self.attn(through)
        through = through + self.ffn(through)
        return self.cv2(torch.cat((beside, through), 1))


class C2PSA(Block):
    PARTS = words("cv1 cv2 m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside, through = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((beside, self.m(through)), 1))


class AAttn(Block):
    """Self-attention within each of `area` equal parts of the picture (Tian et al. 2025)."""

    PARTS, KEPT = words("qkv proj pe"), words("area num_heads head_dim")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, _, high, wide = x.shape
        area, heads, size = int(self.area), int(self.num_heads), int(self.head_dim)
        each = high * wide // area
        flat = self.qkv(x).flatten(2).transpose(1, 2).reshape(rows * area, each, heads, 3 * size)
        queries, keys, values = flat.permute(0, 2, 3, 1).split([size, size, size], dim=2)
        shares = ((queries.transpose(-2, -1) @ keys) * size**-0.5).softmax(dim=-1)
        found, given = (
            part.permute(0, 3, 1, 2).reshape(rows, high, wide, heads * size).permute(0, 3, 1, 2).contiguous()
            for part in (values @ shares.transpose(-2, -1), values)
        )
        return self.proj(found + self.pe(given))


class ABlock(Block):
    PARTS = words("attn mlp")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class A2C2f(Block):
    PARTS, KEPT = words("cv1 cv2 m"), words("gamma")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.cv1(x)]
        for part in self.m:
            found.append(part(found[-1]))
        y = self.cv2(torch.cat(found, 1))
        gamma = getattr(self, "gamma", None)
        return y if gamma is None else x + gamma.view(-1, len(gamma), 1, 1) * y


class TransformerLayer(Block):
    PARTS = words("q k v ma fc1 fc2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ma(self.q(x), self.k(x), self.v(x))[0]
        return x + self.fc2(self.fc1(x))


class TransformerBlock(Block):
    """Positions as a sequence, each encoded by a layer of its own values."""

    PARTS, MAY, KEPT = words("linear tr"), words("conv"), words("c2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x) if self._modules.get("conv") is not None else x
        sequence = x.flatten(2).permute(2, 0, 1)
        return self.tr(sequence + self.linear(sequence)).permute(1, 2, 0).reshape(x.shape)


class InTurn(Block):
    """Two convolutions, one after the other."""

    PARTS = words("cv1 cv2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv2(self.cv1(x))


class CIB(Block):
    PARTS, KEPT = words("cv1"), words("add")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv1(x)
        return x + y if self.add else y


class RepVGGDW(Block):
    """Two depthwise convolutions of different sizes, added; or the one that they were folded into."""

    PARTS, MAY = words("conv act"), words("conv1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.act(y + self.conv1(x) if "conv1" in self._modules else y)


class RepConv(Block):
    """A large and a small convolution and perhaps the input itself, added (Ding et al. 2021); or what they were folded
    into."""

    PARTS, MAY = words("act"), words("conv conv1 conv2 bn")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "conv" in self._modules:
            return self.act(self.conv(x))
        y = self.conv1(x) + self.conv2(x)
        bn = self._modules.get("bn")
        return self.act(y if bn is None else y + bn(x))


class ELAN(Block):
    """Two branches, each of what the one before it gave (Wang et al. 2024)."""

    PARTS = words("cv1 cv2 cv3 cv4")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = list(self.cv1(x).chunk(2, 1))
        for part in (self.cv2, self.cv3):
            found.append(part(found[-1]))
        return self.cv4(torch.cat(found, 1))


class AConv(Block):
    PARTS = words("cv1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv1(F.avg_pool2d(x, 2, 1, 0, False, True))


class ADown(Block):
    """Half the size: one half of the channels by a convolution, the other by the largest of each window."""

    PARTS = words("cv1 cv2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolved, pooled = F.avg_pool2d(x, 2, 1, 0, False, True).chunk(2, 1)
        return torch.cat((self.cv1(convolved), self.cv2(F.max_pool2d(pooled, 3, 2, 1))), 1)


class CBLinear(Block):
    PARTS, KEPT = words("conv"), words("c2s")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.conv(x).split(list(self.c2s), dim=1)


class CBFuse(Block):
    """Of each earlier part one of its pieces, brought to the last one's size; their sum."""

    KEPT = words("idx")

    def forward(self, x: list[Any]) -> torch.Tensor:
        *parts, last = x
        sized = [
            F.interpolate(part[at], size=last.shape[2:], mode="nearest")
            for at, part in zip(self.idx, parts, strict=True)
        ]
        return torch.stack([*sized, last]).sum(0)


class GhostConv(Block):
    PARTS = words("cv1 cv2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


class GhostBottleneck(Block):
    PARTS = words("conv shortcut")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.shortcut(x)


class ResNetBlock(Block):
    PARTS = words("cv1 cv2 cv3 shortcut")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.cv3(self.cv2(self.cv1(x))) + self.shortcut(x))


class ResNetLayer(Block):
    PARTS, KEPT = words("layer"), words("is_first")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


BLOCKS: dict[str, type[Block]] = {
    "Conv": Conv, "DWConv": Conv, "ConvTranspose": ConvTranspose, "DWConvTranspose2d": ConvTranspose,
    "LightConv": LightConv, "Focus": Focus, "Concat": Concat,
    "Bottleneck": Bottleneck, "RepBottleneck": Bottleneck, "BottleneckCSP": BottleneckCSP,
    "C2": C2, "C2f": C2f, "C3k2": C2f, "C2fCIB": C2f,
    "C3": C3, "C3x": C3, "C3k": C3, "C3Ghost": C3, "C3SPP": C3, "C3TR": C3, "RepCSP": C3,
    "SPP": SPP, "SPPF": SPPF, "SPPELAN": SPPELAN,
    "Attention": Attention, "PSABlock": PSABlock, "PSA": PSA, "C2PSA": C2PSA,
    "AAttn": AAttn, "ABlock": ABlock, "A2C2f": A2C2f,
    "TransformerLayer": TransformerLayer, "TransformerBlock": TransformerBlock,
    "SCDown": InTurn, "CIB": CIB, "RepVGGDW": RepVGGDW, "RepConv": RepConv,
    "RepNCSPELAN4": ELAN, "ELAN1": ELAN, "AConv": AConv, "ADown": ADown, "CBLinear": CBLinear, "CBFuse": CBFuse,
    "GhostConv": GhostConv, "GhostBottleneck": GhostBottleneck, "ResNetBlock": ResNetBlock, "ResNetLayer": ResNetLayer,
}  # fmt: skip
