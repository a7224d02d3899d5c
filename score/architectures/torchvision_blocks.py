"""The networks of torchvision for classifying, and their blocks: what a pickled one of theirs computes.

With one, a network whose head was replaced by anything of torch's is served from the pickle alone. Sources: the papers
that each class names; the names of parts are those in the files. All take and give [N, C, H, W] but where they say so.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, channels_of, words


class Network(Block):
    """A network from pictures [N, C, H, W] to classes [N, K], with as many channels as its first convolution takes."""

    @property
    def takes(self) -> str:
        return f"float32[N, {channels_of(self)}, ?, ?]"

    @property
    def recipe_of_images(self) -> str | None:
        return "imagenet" if channels_of(self) == 3 else None


class Pooled(Network):
    """Features, pooled, and classes [N, K] from them: VGG (Simonyan 2014), AlexNet, MobileNetV3, EfficientNet."""

    PARTS, MAY = words("features classifier"), words("avgpool")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        x = self.avgpool(x) if "avgpool" in self._modules else x
        return self.classifier(torch.flatten(x, 1))


class MobileNetV2(Pooled):
    """Sandler 2018."""

    MAY = frozenset()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class DenseNet(Pooled):
    """Huang 2016."""

    MAY = frozenset()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x).relu(), 1), 1))


class SqueezeNet(Pooled):
    """Iandola 2016: the classifier pools itself."""

    MAY = frozenset()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class ConvNeXt(Pooled):
    """Liu 2022: the classifier normalises what is pooled, and flattens it."""

    PARTS, MAY = words("features avgpool classifier"), frozenset()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)))


class MNASNet(Pooled):
    """Tan 2018."""

    PARTS, MAY = words("layers classifier"), frozenset()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(x).mean((2, 3)))


class ResNet(Network):
    """He 2015, Xie 2016, Zagoruyko 2016."""

    PARTS = words("conv1 bn1 relu maxpool layer1 layer2 layer3 layer4 avgpool fc")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class BasicBlock(Block):
    PARTS, MAY = words("conv1 bn1 relu conv2 bn2"), words("downsample")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (self.downsample(x) if "downsample" in self._modules and self.downsample else x))


class Bottleneck(Block):
    PARTS, MAY = words("conv1 bn1 relu conv2 bn2 conv3 bn3"), words("downsample")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (self.downsample(x) if "downsample" in self._modules and self.downsample else x))


class DenseLayer(Block):
    """From all features before it, as a list; since torchvision 0.5, whose blocks put them together."""

    PARTS = words("norm1 relu1 conv1 norm2 relu2 conv2")
    KEPT = NEEDS = words("memory_efficient")

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        y = self.conv1(self.relu1(self.norm1(torch.cat(x, 1))))
        return self.conv2(self.relu2(self.norm2(y)))


class DenseBlock(Block):
    ANY = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [x]
        for layer in self._modules.values():
            assert layer is not None
            found.append(layer(found))
        return torch.cat(found, 1)


class Fire(Block):
    PARTS = words("squeeze squeeze_activation expand1x1 expand1x1_activation expand3x3 expand3x3_activation")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        small, large = self.expand1x1(x), self.expand3x3(x)
        return torch.cat((self.expand1x1_activation(small), self.expand3x3_activation(large)), 1)


class Inverted(Block):
    """MobileNetV2's inverted residual."""

    PARTS = words("conv")
    KEPT = NEEDS = words("use_res_connect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class InvertedBlock(Block):
    """MobileNetV3's, and EfficientNet's, which drops it now and then while it is trained."""

    PARTS, MAY = words("block"), words("stochastic_depth")
    KEPT = NEEDS = words("use_res_connect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) + x if self.use_res_connect else self.block(x)


class InvertedLayers(Block):
    """MNASNet's."""

    PARTS = words("layers")
    KEPT = NEEDS = words("apply_residual")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + x if self.apply_residual else self.layers(x)


class SqueezeExcitation(Block):
    """Hu 2017."""

    PARTS = words("avgpool fc1 fc2 activation scale_activation")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class StochasticDepth(Block):
    """Huang 2016: nothing is dropped where nothing is trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class ShuffleNetV2(Network):
    """Ma 2018."""

    PARTS = words("conv1 maxpool stage2 stage3 stage4 conv5 fc")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        return self.fc(self.conv5(x).mean((2, 3)))


class ShuffleUnit(Block):
    PARTS, MAY = words("branch2"), words("branch1")
    KEPT = NEEDS = words("stride")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 1:
            left, right = x.chunk(2, 1)
        else:
            left, right = self.branch1(x), x
        joined = torch.cat((left, self.branch2(right)), 1)
        return joined.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class RegNet(Network):
    """Radosavovic 2020."""

    PARTS = words("stem trunk_output avgpool fc")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.avgpool(self.trunk_output(self.stem(x))), 1))


class RegBlock(Block):
    PARTS, MAY = words("f activation"), words("proj")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation((self.proj(x) if self._modules.get("proj") is not None else x) + self.f(x))


class NextBlock(Block):
    """ConvNeXt's."""

    PARTS = words("block stochastic_depth")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer_scale * self.block(x) + x


class LayerNorm2d(nn.LayerNorm):
    """Normalises over channels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permute(Block):
    KEPT = NEEDS = words("dims")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.dims)


class VisionTransformer(Network):
    """Dosovitskiy 2020."""

    PARTS = words("conv_proj encoder heads")
    KEPT = NEEDS = words("patch_size image_size")

    @property
    def takes(self) -> str:
        return f"float32[N, {channels_of(self)}, {self.image_size}, {self.image_size}]"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(x), -1, -1), x), 1)
        return self.heads(self.encoder(x)[:, 0])


class Encoder(Block):
    PARTS = words("dropout layers ln")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ln(self.layers(x + self.pos_embedding))


class EncoderBlock(Block):
    PARTS = words("ln_1 self_attention dropout ln_2 mlp")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = self.self_attention(y, y, y, need_weights=False)[0] + x
        return x + self.mlp(self.ln_2(x))


def _of(module: str, **classes: type[nn.Module]) -> Mapping[str, type[nn.Module]]:
    return {f"torchvision.{module}.{name}": cls for name, cls in classes.items()}


_BLOCKS: Mapping[str, type[nn.Module]] = {
    **_of("models.resnet", ResNet=ResNet, BasicBlock=BasicBlock, Bottleneck=Bottleneck),
    **_of("models.vgg", VGG=Pooled),
    **_of("models.alexnet", AlexNet=Pooled),
    **_of("models.squeezenet", SqueezeNet=SqueezeNet, Fire=Fire),
    **_of("models.densenet", DenseNet=DenseNet, _DenseBlock=DenseBlock, _DenseLayer=DenseLayer),
    **_of("models.densenet", _Transition=nn.Sequential),
    **_of("models.mobilenetv2", MobileNetV2=MobileNetV2, InvertedResidual=Inverted, ConvBNReLU=nn.Sequential),
    **_of("models.mobilenetv2", ConvBNActivation=nn.Sequential),
    **_of("models.mobilenet", MobileNetV2=MobileNetV2, InvertedResidual=Inverted, ConvBNReLU=nn.Sequential),
    **_of("models.mobilenetv3", MobileNetV3=Pooled, InvertedResidual=InvertedBlock),
    **_of("models.efficientnet", EfficientNet=Pooled, MBConv=InvertedBlock, FusedMBConv=InvertedBlock),
    **_of("models.mnasnet", MNASNet=MNASNet, _InvertedResidual=InvertedLayers),
    **_of("models.shufflenetv2", ShuffleNetV2=ShuffleNetV2, InvertedResidual=ShuffleUnit),
    **_of("models.regnet", RegNet=RegNet, ResBottleneckBlock=RegBlock, SimpleStemIN=nn.Sequential),
    **_of("models.regnet", BottleneckTransform=nn.Sequential, AnyStage=nn.Sequential),
    **_of("models.convnext", ConvNeXt=ConvNeXt, CNBlock=NextBlock, LayerNorm2d=LayerNorm2d),
    **_of("models.vision_transformer", VisionTransformer=VisionTransformer, Encoder=Encoder),
    **_of("models.vision_transformer", EncoderBlock=EncoderBlock, MLPBlock=nn.Sequential),
    **_of("ops.misc", ConvNormActivation=nn.Sequential, Conv2dNormActivation=nn.Sequential, MLP=nn.Sequential),
    **_of("ops.misc", SqueezeExcitation=SqueezeExcitation, Permute=Permute),
    **_of("ops.stochastic_depth", StochasticDepth=StochasticDepth),
}


def block(path: str) -> type[nn.Module] | None:
    """What computes as a class of torchvision's does; None for any other."""
    return _BLOCKS.get(path)
