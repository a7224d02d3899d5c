"""The small layers of timm that its networks share: what a pickled one of theirs computes.

Sources: the papers that each class names, and the names of parts and attributes in the files. All take and give
[N, C, H, W] but where they say so; what only trains (dropping paths or blocks) is left out.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.timm_blocks.attention import Attention, AttentionPoolLatent
from score.architectures.torchvision_blocks import LayerNorm2d, StochasticDepth

MOST_PIXELS = 1 << 14  # along a side


def order(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class Chain(Block):
    """Runs those of its parts that are there in the order of `ORDER`, which is that of the library's own; `BESIDE` are
    parts that are not in it."""

    ORDER: ClassVar[tuple[str, ...]] = ()
    BESIDE: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        cls.MAY = frozenset(cls.ORDER) | cls.BESIDE

    def run(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.ORDER:
            part = self._modules.get(name)
            x = x if part is None else part(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


class Mlp(Chain):
    """[..., C] to [..., C], or pictures where its layers are convolutions; with what normalises between (Woo 2023)."""

    PARTS, ORDER = words("fc1 act fc2"), order("fc1 act drop drop1 norm grn fc2 drop2")


class ConvNormAct(Chain):
    PARTS, ORDER = words("conv bn"), order("conv bn aa")


class BatchNormAct2d(nn.BatchNorm2d):
    """Normalised, and then activated."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = super().forward(input)
        return self.act(self.drop(x) if "drop" in self._modules else x)  # type: ignore[no-any-return, operator]


class BlurPool2d(Block):
    """Blurred, and then every `stride`-th pixel (Zhang 2019). The filter is one for all channels, or one each."""

    KEPT, NEEDS = words("channels stride padding pad_mode"), words("stride padding")

    def unknown(self) -> str:
        frame = self.padding
        few = isinstance(frame, (list, tuple)) and len(frame) == 4 and all(each in range(16) for each in frame)
        return "" if few and self.stride in range(1, 16) else "padding"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        x = F.pad(x, list(self.padding), mode=self.__dict__.get("pad_mode", "reflect"))
        return F.conv2d(x, self.filt.expand(channels, -1, -1, -1), stride=self.stride, groups=channels)


class GlobalResponseNorm(Block):
    """Woo 2023. `spatial_dim`, `channel_dim` and `wb_shape` say where channels are."""

    KEPT = NEEDS = words("eps spatial_dim channel_dim wb_shape")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = x.norm(p=2, dim=self.spatial_dim, keepdim=True)
        share = norm / (norm.mean(dim=self.channel_dim, keepdim=True) + self.eps)
        return x + torch.addcmul(self.bias.view(self.wb_shape), self.weight.view(self.wb_shape), x * share)


class Conv2dSame(nn.Conv2d):
    """Padded as TensorFlow pads: so that the output is the input's size over the stride, with the odd pixel behind."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        frame: list[int] = []
        for size, kernel, step, spread in zip(
            input.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
        ):
            lacking = max((-(-size // step) - 1) * step + (kernel - 1) * spread + 1 - size, 0)
            frame = [lacking // 2, lacking - lacking // 2, *frame]
        return F.conv2d(F.pad(input, frame), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class SelectAdaptivePool2d(Block):
    """Pooled by what it holds, and flattened, or not. `pool_type` is its name."""

    PARTS = words("pool flatten")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.flatten(self.pool(x))


class FastAdaptiveAvgPool(Block):
    KEPT = NEEDS = words("flatten dim")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.dim, keepdim=not self.flatten)


class AdaptiveAvgMaxPool2d(Block):
    """Half of the average and half of the maximum."""

    KEPT = NEEDS = words("output_size")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (F.adaptive_avg_pool2d(x, self.output_size) + F.adaptive_max_pool2d(x, self.output_size))


class AdaptiveCatAvgMaxPool2d(Block):
    KEPT = NEEDS = words("output_size")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((F.adaptive_avg_pool2d(x, self.output_size), F.adaptive_max_pool2d(x, self.output_size)), 1)


class SEModule(Block):
    """Squeeze and excitation (Hu 2017)."""

    PARTS, MAY = words("fc1 act fc2 gate"), words("bn")
    KEPT = words("add_maxpool")

    def unknown(self) -> str:
        return "add_maxpool" if self.__dict__.get("add_maxpool") else ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc1(x.mean((2, 3), keepdim=True))
        y = self.bn(y) if "bn" in self._modules else y
        return x * self.gate(self.fc2(self.act(y)))


class SqueezeExcite(Block):
    PARTS = words("conv_reduce act1 conv_expand gate")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True)))))


class EcaModule(Block):
    """Efficient channel attention (Wang 2019)."""

    PARTS = words("conv gate")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.conv(x.mean((2, 3))[:, None]))[:, 0, :, None, None]


class LayerScale(Block):
    """Touvron 2021: [..., C]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class LayerScale2d(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma.view(1, -1, 1, 1)


class Swish(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sigmoid()


class QuickGELU(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class GELU(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)


class GELUTanh(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh")


class PatchEmbed(Block):
    """Pictures to a grid [N, C, h, w], and that to patches [N, h x w, C] where it flattens."""

    PARTS, MAY = words("proj"), words("norm")
    KEPT = words("img_size flatten strict_img_size dynamic_img_pad")
    NEEDS = words("img_size")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures that it takes."""
        size = self.img_size
        return tuple(size) if isinstance(size, (list, tuple)) else (size, size)  # type: ignore[return-value]

    def unknown(self) -> str:
        numbers = len(self.size) == 2 and all(type(each) is int and 0 < each < MOST_PIXELS for each in self.size)
        return "dynamic_img_pad" if self.__dict__.get("dynamic_img_pad") else "" if numbers else "img_size"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x)
        x = x.flatten(2).transpose(1, 2) if self.__dict__.get("flatten", True) else x.permute(0, 2, 3, 1)
        return self.norm(x) if "norm" in self._modules else x


class ClassifierHead(Chain):
    PARTS, ORDER = words("global_pool fc"), order("global_pool drop fc flatten")


class NormMlpClassifierHead(Chain):
    PARTS, ORDER = words("global_pool norm flatten fc"), order("global_pool norm flatten pre_logits drop fc")


def _of(*modules: str, **classes: type[nn.Module]) -> Mapping[str, type[nn.Module]]:
    """Under the path of each version of timm: until 0.8 its layers were among its models."""
    return {f"timm.{module}.{name}": cls for module in modules for name, cls in classes.items()}


def _layers(module: str, **classes: type[nn.Module]) -> Mapping[str, type[nn.Module]]:
    return _of(f"layers.{module}", f"models.layers.{module}", **classes)


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Swish": Swish, "Mish": nn.Mish, "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh, "HardSwish": nn.Hardswish,
    "HardSigmoid": nn.Hardsigmoid, "GELU": GELU, "GELUTanh": GELUTanh, "QuickGELU": QuickGELU,
}  # fmt: skip

LAYERS: Mapping[str, type[nn.Module]] = {
    **_layers("activations", **_ACTIVATIONS),
    **_layers("activations_me", **{f"{name}Me": cls for name, cls in _ACTIVATIONS.items()}),
    **_layers("adaptive_avgmax_pool", SelectAdaptivePool2d=SelectAdaptivePool2d),
    **_layers("adaptive_avgmax_pool", FastAdaptiveAvgPool=FastAdaptiveAvgPool),
    **_layers("adaptive_avgmax_pool", AdaptiveAvgMaxPool2d=AdaptiveAvgMaxPool2d),
    **_layers("adaptive_avgmax_pool", AdaptiveCatAvgMaxPool2d=AdaptiveCatAvgMaxPool2d),
    **_layers("attention", Attention=Attention),
    **_layers("attention_pool", AttentionPoolLatent=AttentionPoolLatent),
    **_layers("blur_pool", BlurPool2d=BlurPool2d),
    **_layers("classifier", ClassifierHead=ClassifierHead, NormMlpClassifierHead=NormMlpClassifierHead),
    **_layers("conv2d_same", Conv2dSame=Conv2dSame),
    **_layers("conv_bn_act", ConvNormAct=ConvNormAct),
    **_layers("drop", DropPath=StochasticDepth, DropBlock2d=StochasticDepth),
    **_layers("eca", EcaModule=EcaModule),
    **_layers("grn", GlobalResponseNorm=GlobalResponseNorm),
    **_layers("layer_scale", LayerScale=LayerScale, LayerScale2d=LayerScale2d),
    **_layers("linear", Linear=nn.Linear),
    **_layers("mlp", Mlp=Mlp, GlobalResponseNormMlp=Mlp),
    **_layers("norm", LayerNorm=nn.LayerNorm, LayerNorm2d=LayerNorm2d),
    **_layers("norm_act", BatchNormAct2d=BatchNormAct2d),
    **_layers("patch_embed", PatchEmbed=PatchEmbed),
    **_layers("squeeze_excite", SEModule=SEModule),
    **_of("models._efficientnet_blocks", "models.efficientnet_blocks", SqueezeExcite=SqueezeExcite),
}  # fmt: skip
