"""Backbones of convolutions: from pictures [N, C, H, W] to a tuple of features, the largest first.

Sources: the papers that each class names; the names of parts and attributes are those in the files.
"""

import torch
from torch import nn

from score.architectures.block import Block, words
from score.architectures.openmmlab_blocks.bricks import NORMS

Features = tuple[torch.Tensor, ...]
_STAGES = frozenset(f"layer{at}" for at in range(1, 12))


class Stages(Block):
    """Stages by their names, and what those give that are listed."""

    LISTED = "res_layers"  # the attribute with their names
    PARTS, MAY = words("layer1"), _STAGES
    KEPT = NEEDS = words("res_layers out_indices")

    def unknown(self) -> str:
        names = getattr(self, self.LISTED)
        good = isinstance(names, list) and set(names) <= self._modules.keys() and names
        return "" if good and all(type(at) is int for at in self.out_indices) else self.LISTED

    def begin(self, x: torch.Tensor) -> torch.Tensor:
        """What comes before the first stage; nothing, where that is listed too."""
        return x

    def forward(self, x: torch.Tensor) -> Features:
        x = self.begin(x)
        found = []
        for at, name in enumerate(getattr(self, self.LISTED)):
            x = self._modules[name](x)  # type: ignore[misc]
            if at in self.out_indices:
                found.append(x)
        return tuple(found)


class ResNet(Stages):
    """He 2015; with a deep stem, He 2018; of other widths, Radosavovic 2020."""

    PARTS, MAY = words("layer1"), _STAGES | NORMS | words("stem conv1 relu maxpool")
    KEPT = words("res_layers out_indices deep_stem norm1_name")
    NEEDS = words("res_layers out_indices deep_stem")

    def unknown(self) -> str:
        first = "stem" if self.deep_stem else self.norm1_name
        return super().unknown() or ("" if first in self._modules else "deep_stem")

    def begin(self, x: torch.Tensor) -> torch.Tensor:
        parts = self._modules
        x = parts["stem"](x) if self.deep_stem else self.relu(parts[self.norm1_name](self.conv1(x)))  # type: ignore[misc]
        return self.maxpool(x) if "maxpool" in parts else x  # without, for small pictures


class Residual(Block):
    """Convolutions, each with its norm, and what was given added to them; activated."""

    COUNT = 2
    MAY = NORMS | words("downsample drop_path se_layer")
    KEPT = words("norm1_name norm2_name norm3_name with_plugins")
    NEEDS = words("norm1_name norm2_name")

    def unknown(self) -> str:
        named = all(getattr(self, f"norm{at}_name") in self._modules for at in range(1, self.COUNT + 1))
        return "with_plugins" if self.__dict__.get("with_plugins") else "" if named else "norm1_name"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts, y = self._modules, x
        for at in range(1, self.COUNT + 1):
            y = parts[getattr(self, f"norm{at}_name")](parts[f"conv{at}"](y))  # type: ignore[misc]
            y = self.relu(y) if at < self.COUNT else y
        y = self.se_layer(y) if parts.get("se_layer") is not None else y
        short = parts.get("downsample")
        return self.relu(y + (x if short is None else short(x)))


class BasicBlock(Residual):
    PARTS = words("conv1 conv2 relu")


class Bottleneck(Residual):
    PARTS, COUNT = words("conv1 conv2 conv3 relu"), 3


class MobileNetV2(Stages):
    """Sandler 2018."""

    LISTED = "layers"
    PARTS, MAY = words("conv1 layer1"), _STAGES | words("conv2")
    KEPT = NEEDS = words("layers out_indices")

    def begin(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x)


class MobileNetV3(Stages):
    """Howard 2019."""

    LISTED = "layers"
    PARTS, MAY = words("layer0 layer1"), frozenset(f"layer{at}" for at in range(20))
    KEPT = NEEDS = words("layers out_indices")


class LinearBottleneck(Block):
    PARTS = words("conv")
    KEPT = NEEDS = words("use_res_connect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class InvertedResidual(Block):
    PARTS, MAY = words("depthwise_conv linear_conv"), words("expand_conv se drop_path")
    KEPT = NEEDS = words("with_res_shortcut with_se with_expand_conv")

    def unknown(self) -> str:
        parts = self._modules
        return (
            "" if self.with_se == ("se" in parts) and self.with_expand_conv == ("expand_conv" in parts) else "with_se"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise_conv(self.expand_conv(x) if self.with_expand_conv else x)
        y = self.linear_conv(self.se(y) if self.with_se else y)
        return x + y if self.with_res_shortcut else y


class EdgeResidual(Block):
    PARTS, MAY = words("conv1 conv2"), words("se drop_path")
    KEPT = NEEDS = words("with_residual with_se")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x)
        y = self.conv2(self.se(y) if self.with_se else y)
        return x + y if self.with_residual else y


class EfficientNet(Block):
    """Tan 2019, 2021."""

    PARTS = words("layers")
    KEPT = NEEDS = words("out_indices")

    def forward(self, x: torch.Tensor) -> Features:
        found = []
        for at, layer in enumerate(self.layers):
            x = layer(x)
            if at in self.out_indices:
                found.append(x)
        return tuple(found)


class VGG(Block):
    """Simonyan 2014; with a classifier, scores are its last feature."""

    PARTS, MAY = words("features"), words("classifier")
    KEPT = NEEDS = words("stage_blocks range_sub_modules out_indices num_classes")

    def forward(self, x: torch.Tensor) -> Features:
        found = []
        for at, (start, end) in enumerate(self.range_sub_modules):
            for part in self.features[start:end]:
                x = part(x)
            if at in self.out_indices:
                found.append(x)
        if self.num_classes > 0:
            found.append(self.classifier(x.flatten(1)))
        return tuple(found)


class ConvNeXt(Block):
    """Liu 2022, Woo 2023."""

    PARTS, MAY = words("downsample_layers stages"), words("norm0 norm1 norm2 norm3")
    KEPT = NEEDS = words("out_indices gap_before_final_norm")

    def unknown(self) -> str:
        return "" if all(f"norm{at}" in self._modules for at in self.out_indices) else "out_indices"

    def forward(self, x: torch.Tensor) -> Features:
        found = []
        for at, (turn, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(turn(x))
            if at in self.out_indices:
                norm: nn.Module = getattr(self, f"norm{at}")
                pooled = self.gap_before_final_norm
                found.append(norm(x.mean([-2, -1], keepdim=True)).flatten(1) if pooled else norm(x))
        return tuple(found)


class ConvNeXtBlock(Block):
    PARTS, MAY = words("depthwise_conv norm pointwise_conv1 act pointwise_conv2"), words("grn drop_path")
    KEPT = NEEDS = words("linear_pw_conv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, last = self.depthwise_conv(x), self.linear_pw_conv
        y = y.permute(0, 2, 3, 1) if last else y
        order = "channel_last" if last else "channel_first"
        y = self.act(self.pointwise_conv1(self.norm(y, data_format=order)))
        norm = self._modules.get("grn")
        y = self.pointwise_conv2(y if norm is None else norm(y, data_format=order))
        y = y.permute(0, 3, 1, 2) if last else y
        gamma = self._parameters.get("gamma")
        return x + (y if gamma is None else y.mul(gamma.view(1, -1, 1, 1)))
