"""timm's networks of convolutions, and their blocks.

ResNet and its kin, EfficientNet, MobileNet, ConvNeXt, DenseNet, VGG, RegNet. Sources: the papers that each class names;
the names of parts are those in the files.
"""

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.timm_blocks.layers import Chain, order
from score.architectures.timm_blocks.network import ChainNetwork, Network


class ResNet(Network):
    """He 2015, Xie 2016, and with other stems (He 2018)."""

    PARTS = words("conv1 bn1 act1 maxpool layer1 layer2 layer3 layer4 global_pool fc")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.fc(self.global_pool(self.layer4(self.layer3(self.layer2(self.layer1(x))))))


class Residual(Chain):
    """A chain, and what it was given added to it, activated."""

    LAST = ""  # the activation's name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = self._modules.get("downsample")
        return self._modules[self.LAST](self.run(x) + (x if short is None else short(x)))  # type: ignore[misc]


class BasicBlock(Residual):
    PARTS, ORDER, LAST = (
        words("conv1 bn1 act1 conv2 bn2 act2"),
        order("conv1 bn1 drop_block act1 aa conv2 bn2 se drop_path"),
        "act2",
    )
    BESIDE = words("downsample")


class Bottleneck(Residual):
    PARTS, LAST = words("conv1 bn1 act1 conv2 bn2 act2 conv3 bn3 act3"), "act3"
    ORDER = order("conv1 bn1 act1 conv2 bn2 drop_block act2 aa conv3 bn3 se drop_path")
    BESIDE = words("downsample")


class RegBottleneck(Residual):
    """Radosavovic 2020."""

    PARTS, ORDER, LAST = words("conv1 conv2 conv3 act3"), order("conv1 conv2 se conv3 drop_path"), "act3"
    BESIDE = words("downsample")


class RegStage(Block):
    ANY = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self._modules.values():
            assert block is not None
            x = block(x)
        return x


class RegNet(ChainNetwork):
    PARTS, ORDER = words("stem s1 s2 s3 s4 head"), order("stem s1 s2 s3 s4 final_conv head")


class Skipping(Chain):
    """A chain, and what it was given added to it where its attribute says so; before timm 0.6 it was called so."""

    KEPT = words("has_skip has_residual")

    def unknown(self) -> str:
        return "" if self.KEPT & self.__dict__.keys() else "has_skip"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = self.__dict__
        return self.run(x) + x if said.get("has_skip", said.get("has_residual")) else self.run(x)


class ConvBnAct(Skipping):
    PARTS, ORDER = words("conv bn1"), order("conv bn1 act1 aa drop_path")


class DepthwiseSeparableConv(Skipping):
    """Howard 2017."""

    PARTS, ORDER = words("conv_dw bn1 conv_pw bn2"), order("conv_dw bn1 act1 aa se conv_pw bn2 act2 drop_path")


class InvertedResidual(Skipping):
    """Sandler 2018, Tan 2019."""

    PARTS = words("conv_pw bn1 conv_dw bn2 conv_pwl bn3")
    ORDER = order("conv_pw bn1 act1 conv_dw bn2 act2 aa se conv_pwl bn3 drop_path")


class UniversalInvertedResidual(Skipping):
    """Qin 2024."""

    PARTS, ORDER = words("pw_exp pw_proj"), order("dw_start pw_exp dw_mid se pw_proj dw_end layer_scale drop_path")


class EdgeResidual(Skipping):
    """Tan 2021."""

    PARTS, ORDER = words("conv_exp bn1 conv_pwl bn2"), order("conv_exp bn1 act1 aa se conv_pwl bn2 drop_path")


class EfficientNet(ChainNetwork):
    """Tan 2019."""

    PARTS = words("conv_stem bn1 blocks conv_head bn2 global_pool classifier")
    ORDER = order("conv_stem bn1 act1 blocks conv_head bn2 act2 global_pool classifier")


class MobileNetV3(ChainNetwork):
    """Howard 2019."""

    PARTS = words("conv_stem bn1 blocks global_pool conv_head act2 flatten classifier")
    ORDER = order("conv_stem bn1 act1 blocks global_pool conv_head norm_head act2 flatten classifier")


class DenseNet(ChainNetwork):
    """Huang 2016."""

    PARTS, ORDER = words("features global_pool classifier"), order("features global_pool head_drop classifier")


class DenseLayer(Block):
    """From all features before it, as a list."""

    PARTS = words("norm1 conv1 norm2 conv2")

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return self.conv2(self.norm2(self.conv1(self.norm1(torch.cat(x, 1)))))


class VGG(ChainNetwork):
    """Simonyan 2014."""

    PARTS = words("features pre_logits head")
    ORDER = order("features pre_logits head")


class VGGMlp(Chain):
    """The two layers before the head, as convolutions as large as the picture is by then."""

    PARTS, ORDER = words("fc1 act1 fc2 act2"), order("fc1 act1 drop fc2 act2")
    KEPT = NEEDS = words("input_kernel_size")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        least = self.input_kernel_size
        if min(x.shape[-2:]) < least:
            x = F.adaptive_avg_pool2d(x, (max(least, x.shape[-2]), max(least, x.shape[-1])))
        return self.run(x)


class ConvNeXt(ChainNetwork):
    """Liu 2022, Woo 2023."""

    PARTS, ORDER = words("stem stages head"), order("stem stages norm_pre head")


class ConvNeXtStage(Chain):
    PARTS, ORDER = words("downsample blocks"), order("downsample blocks")


class ConvNeXtBlock(Block):
    PARTS, MAY = words("conv_dw norm mlp"), words("shortcut drop_path")
    KEPT = NEEDS = words("use_conv_mlp")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv_dw(x)
        if self.use_conv_mlp:
            y = self.mlp(self.norm(y))
        else:
            y = self.mlp(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        gamma = self._parameters.get("gamma")
        y = y if gamma is None else y * gamma.reshape(1, -1, 1, 1)
        return y + (self.shortcut(x) if "shortcut" in self._modules else x)
