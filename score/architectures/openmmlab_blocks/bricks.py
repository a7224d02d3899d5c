"""What the networks of OpenMMLab are put together of: mmcv's and mmengine's layers."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words

# A norm's name is that of its kind and a number, where there are several.
NORMS = frozenset(f"{kind}{at}" for kind in ("bn", "gn", "in", "ln", "norm_layer") for at in ("", "1", "2", "3"))
_STEPS = frozenset(("conv", "norm", "act"))


class Parts(Block, nn.ModuleList):
    ANY = True


class Unused(Block):
    """What a prediction does without: a loss, or what assigns targets."""

    ANY = True

    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class ConvModule(Block):
    """A convolution, a norm and an activation, in that order or another."""

    PARTS, MAY = words("conv"), NORMS | words("activate padding_layer")
    KEPT = words("order norm_name with_norm with_activation with_explicit_padding")
    NEEDS = words("order with_norm with_activation")

    def unknown(self) -> str:
        said, parts = self.__dict__, self._modules
        if set(self.order) != _STEPS or len(self.order) != len(_STEPS):
            return "order"
        lacking = (self.with_norm and said.get("norm_name") not in parts) or (
            self.with_activation and "activate" not in parts
        )
        return "norm_name" if lacking or (said.get("with_explicit_padding") and "padding_layer" not in parts) else ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.order:
            if step == "conv":
                x = self.conv(self.padding_layer(x) if self.__dict__.get("with_explicit_padding") else x)
            elif step == "norm":
                x = self._modules[self.norm_name](x) if self.with_norm else x  # type: ignore[misc]
            else:
                x = self.activate(x) if self.with_activation else x
        return x


class SkippingConv(ConvModule):
    """With what it was given added to it, where it says so."""

    MAY = ConvModule.MAY | words("drop_path")
    KEPT = ConvModule.KEPT | words("has_skip")
    NEEDS = ConvModule.NEEDS | words("has_skip")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x if self.has_skip else super().forward(x)


class SeparableConv(Block):
    PARTS = words("depthwise_conv pointwise_conv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class SqueezeExcite(Block):
    """Hu 2017."""

    PARTS, KEPT = words("global_avgpool conv1 conv2"), words("return_weight")

    def unknown(self) -> str:
        return "return_weight" if self.__dict__.get("return_weight") else ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.conv2(self.conv1(self.global_avgpool(x)))


class Swish(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


class HSigmoid(Block):
    KEPT = NEEDS = words("bias divisor min_value max_value")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x + self.bias) / self.divisor).clamp(self.min_value, self.max_value)


class HSwish(Block):
    PARTS = words("act")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.act(x + 3) / 6


class GELU(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)


class Scale(Block):
    """A learnt number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class LayerScale(Block):
    """A learnt number a channel (Touvron 2021)."""

    KEPT = NEEDS = words("data_format")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *(1,) * (x.dim() - 2)) if self.data_format == "channels_first" else (-1,)
        return x * self.weight.view(shape)


def padded(x: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> list[int]:
    """How many rows and columns are missing for as many steps as the stride fits into a picture."""
    sizes = zip(x.shape[-2:], kernel, stride, dilation, strict=True)
    return [
        max((math.ceil(size / step) - 1) * step + (side - 1) * gap + 1 - size, 0) for size, side, step, gap in sizes
    ]


class SamePaddedConv2d(nn.Conv2d):
    """As TensorFlow pads: as many pixels as the picture lacks, half of them before it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        high, wide = padded(input, self.kernel_size, self.stride, self.dilation)  # type: ignore[arg-type]
        around = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
        found = F.pad(input, around) if high or wide else input
        return F.conv2d(found, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class AdaptivePadding(Block):
    KEPT = NEEDS = words("padding kernel_size stride dilation")

    def unknown(self) -> str:
        return "" if self.padding in ("same", "corner") else "padding"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high, wide = padded(x, self.kernel_size, self.stride, self.dilation)
        before = (wide // 2, high // 2) if self.padding == "same" else (0, 0)
        return F.pad(x, (before[0], wide - before[0], before[1], high - before[1])) if high or wide else x


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of [N, C, H, W], or [N, H, W, C]."""

    def forward(self, input: torch.Tensor, data_format: str = "channel_first") -> torch.Tensor:
        if data_format == "channel_last":
            return super().forward(input)
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class ResponseNorm(Block):
    """Global response normalisation (Woo 2023)."""

    KEPT = NEEDS = words("eps")

    def forward(self, x: torch.Tensor, data_format: str = "channel_first") -> torch.Tensor:
        places, channels = ((1, 2), -1) if data_format == "channel_last" else ((2, 3), 1)
        share = torch.norm(x, p=2, dim=places, keepdim=True)
        share = share / (share.mean(dim=channels, keepdim=True) + self.eps)
        gamma, beta = self.gamma, self.beta
        if channels == 1:
            gamma, beta = gamma.view(1, -1, 1, 1), beta.view(1, -1, 1, 1)
        return gamma * (x * share) + beta + x


def resized(x: torch.Tensor, size: tuple[int, ...] | torch.Size, align: bool, mode: str = "bilinear") -> torch.Tensor:
    return F.interpolate(x, tuple(size), mode=mode, align_corners=None if mode == "nearest" else align)
