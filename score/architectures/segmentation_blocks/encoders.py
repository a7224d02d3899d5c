"""The encoders of segmentation-models-pytorch: what a pickled one computes, as a list of features of each size.

From pictures [N, C, H, W] to [the pictures, H/2, H/4, ...], `_depth` of them behind the pictures. Their blocks are
torchvision's, timm's, or their own. Names of parts and attributes are those in the files.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from score.architectures.block import Block, words
from score.architectures.timm_blocks.layers import Swish

Features = list[torch.Tensor]
DEEPEST = 5


class Encoder(Block):
    """Stages, one after the other; a feature is what each gives."""

    KEPT, NEEDS = words("_depth _output_stride"), words("_depth")

    def unknown(self) -> str:
        depth = self._depth
        return "" if type(depth) is int and 0 < depth <= DEEPEST else "_depth"

    @property
    def stride(self) -> int:
        """How many times smaller the last feature is than the pictures."""
        said = self.__dict__.get("_output_stride")
        return min(said if type(said) is int and said > 0 else 2**DEEPEST, 2**self._depth)

    def stages(self) -> Iterator[tuple[nn.Module, ...]]:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> Features:
        found = [x]
        for _, stage in zip(range(self._depth), self.stages(), strict=False):
            for part in stage:
                x = part(x)
            found.append(x)
        return found


class ResNet(Encoder):
    PARTS = words("conv1 bn1 relu maxpool layer1 layer2 layer3 layer4")

    def stages(self) -> Iterator[tuple[nn.Module, ...]]:
        yield self.conv1, self.bn1, self.relu
        yield self.maxpool, self.layer1
        yield from ((part,) for part in (self.layer2, self.layer3, self.layer4))


class SENet(Encoder):
    """Hu 2017."""

    PARTS, MAY = words("layer0 layer1 layer2 layer3 layer4"), words("layer0_pool")

    def stages(self) -> Iterator[tuple[nn.Module, ...]]:
        pool = self._modules.get("layer0_pool")
        if pool is None:  # which was the last of the first stage until 0.4
            yield tuple(self.layer0)[:-1]
            yield self.layer0[-1], self.layer1
        else:
            yield (self.layer0,)
            yield pool, self.layer1
        yield from ((part,) for part in (self.layer2, self.layer3, self.layer4))


class SEBlock(Block):
    PARTS, MAY = words("conv1 bn1 conv2 bn2 conv3 bn3 relu se_module"), words("downsample")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        short = self._modules.get("downsample")
        return self.relu(self.se_module(self.bn3(self.conv3(y))) + (x if short is None else short(x)))


class SEModule(Block):
    PARTS = words("avg_pool fc1 relu fc2 sigmoid")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(self.avg_pool(x)))))


class VGG(Encoder):
    """Features before each pooling, the first as large as the pictures, and after the last."""

    PARTS, MAY = words("features"), words("avgpool")

    def forward(self, x: torch.Tensor) -> Features:
        found = []
        for part in self.features:
            if isinstance(part, nn.MaxPool2d):
                found.append(x)
            x = part(x)
        return [*found, x][: self._depth + 1]


class DenseNet(Encoder):
    PARTS = words("features")

    def stages(self) -> Iterator[tuple[nn.Module, ...]]:
        parts = self.features
        yield parts.conv0, parts.norm0, parts.relu0
        before: tuple[nn.Module, ...] = (parts.pool0,)
        for at in (1, 2, 3):
            block, turn = getattr(parts, f"denseblock{at}"), getattr(parts, f"transition{at}")
            yield *before, block, turn.norm, turn.relu
            before = (turn.conv, turn.pool)
        yield *before, parts.denseblock4, parts.norm5


class MobileNetV2(Encoder):
    PARTS, MAY = words("features"), words("classifier")

    def stages(self) -> Iterator[tuple[nn.Module, ...]]:
        parts = tuple(self.features)
        for start, stop in ((0, 2), (2, 4), (4, 7), (7, 14), (14, len(parts))):
            yield parts[start:stop]


class EfficientNet(Encoder):
    """Tan 2019; `_out_indexes` are the blocks that end a stage, which older versions call by where the next begins."""

    PARTS = words("_conv_stem _bn0 _blocks _swish")
    MAY = words("_conv_head _bn1 _avg_pooling _dropout")
    KEPT = Encoder.KEPT | words("_out_indexes _stage_idxs")

    def ends(self) -> list[int]:
        said = self.__dict__
        if "_out_indexes" in said:
            return list(said["_out_indexes"])
        return [*(at - 1 for at in said["_stage_idxs"]), len(self._blocks) - 1]

    def unknown(self) -> str:
        said = self.__dict__.get("_out_indexes", self.__dict__.get("_stage_idxs"))
        good = isinstance(said, (list, tuple)) and all(type(each) is int for each in said)
        return super().unknown() or ("" if good else "_out_indexes")

    def stages(self) -> Iterator[tuple[nn.Module, ...]]:
        yield self._conv_stem, self._bn0, self._swish
        blocks, start = tuple(self._blocks), 0
        for end in self.ends():
            yield blocks[start : end + 1]
            start = end + 1


class MBConvBlock(Block):
    PARTS = words("_depthwise_conv _bn1 _project_conv _bn2 _swish")
    MAY = words("_expand_conv _bn0 _se_reduce _se_expand")
    KEPT = NEEDS = words("_has_expansion _has_se _has_drop_connect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._swish(self._bn0(self._expand_conv(x))) if self._has_expansion else x
        y = self._swish(self._bn1(self._depthwise_conv(y)))
        if self._has_se:
            small = nn.functional.adaptive_avg_pool2d(y, 1)
            y = torch.sigmoid(self._se_expand(self._swish(self._se_reduce(small)))) * y
        y = self._bn2(self._project_conv(y))
        return y + x if self._has_drop_connect else y


class PaddedConv2d(nn.Conv2d):
    """A convolution whose padding, of an odd number of pixels, is a part of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        padded = self._modules["static_padding"](input)  # type: ignore[misc]
        return super().forward(padded)


class TimmEfficientNet(Encoder):
    PARTS = words("conv_stem bn1 blocks")
    MAY = words("act1 conv_head bn2 act2 global_pool classifier")

    def stages(self) -> Iterator[tuple[nn.Module, ...]]:
        blocks, act = tuple(self.blocks), self._modules.get("act1")
        yield (self.conv_stem, self.bn1, *(() if act is None else (act,)))
        for start, stop in ((0, 2), (2, 3), (3, 5), (5, len(blocks))):
            yield blocks[start:stop]


class TimmUniversal(Encoder):
    """Any network of timm that lists its features."""

    PARTS = words("model")
    KEPT = Encoder.KEPT | words("_is_channel_last _is_transformer_style _is_vgg_style")

    def forward(self, x: torch.Tensor) -> Features:
        found: Features = self.model(x)
        said = self.__dict__
        if said.get("_is_channel_last"):
            found = [each.permute(0, 3, 1, 2).contiguous() for each in found]
        if said.get("_is_transformer_style"):  # which has none of half the size
            found = [x.new_empty((len(x), 0, x.shape[2] // 2, x.shape[3] // 2)), *found]
        return found if said.get("_is_vgg_style") else [x, *found]


class StageFeatures(Block):
    """timm's EfficientNet and MobileNet: what those of its stages give that are listed, by number."""

    PARTS, MAY = words("conv_stem bn1 blocks"), words("act1")
    KEPT = NEEDS = words("_stage_out_idx")

    def unknown(self) -> str:
        return "" if isinstance(self._stage_out_idx, dict) else "_stage_out_idx"

    def forward(self, x: torch.Tensor) -> Features:
        x = self.bn1(self.conv_stem(x))
        x = self.act1(x) if "act1" in self._modules else x
        found = [x] if "0" in self._stage_out_idx else []
        for at, stage in enumerate(self.blocks, 1):
            x = stage(x)
            if str(at) in self._stage_out_idx:
                found.append(x)
        return found


class FeatureList(Block):
    """timm's: parts one after the other, and a list of what those that are named give."""

    ANY = True
    KEPT, NEEDS = words("return_layers concat"), words("return_layers")

    def unknown(self) -> str:
        said = self.return_layers
        known = isinstance(said, dict) and said.keys() <= self._modules.keys()
        return "concat" if self.__dict__.get("concat") else "" if known else "return_layers"

    def forward(self, x: torch.Tensor) -> Features:
        found = []
        for name, part in self._modules.items():
            assert part is not None
            x = part(x)
            if name in self.return_layers:
                found.append(x)
        return found


def _of(module: str, **classes: type[nn.Module]) -> Mapping[str, type[nn.Module]]:
    return {f"segmentation_models_pytorch.encoders.{module}.{name}": cls for name, cls in classes.items()}


ENCODERS: Mapping[str, type[nn.Module]] = {
    **_of("resnet", ResNetEncoder=ResNet),
    **_of("vgg", VGGEncoder=VGG),
    **_of("densenet", DenseNetEncoder=DenseNet),
    **_of("mobilenet", MobileNetV2Encoder=MobileNetV2),
    **_of("efficientnet", EfficientNetEncoder=EfficientNet),
    **_of("_efficientnet", MBConvBlock=MBConvBlock, Conv2dStaticSamePadding=PaddedConv2d),
    **_of("senet", SENetEncoder=SENet),
    **_of("_senet", SEModule=SEModule, SEBottleneck=SEBlock, SEResNetBottleneck=SEBlock, SEResNeXtBottleneck=SEBlock),
    **_of("timm_efficientnet", EfficientNetEncoder=TimmEfficientNet),
    **_of("timm_universal", TimmUniversalEncoder=TimmUniversal),
    "timm.models.mobilenetv3.MobileNetV3Features": StageFeatures,
    "timm.models.efficientnet.EfficientNetFeatures": StageFeatures,
    "timm.models._features.FeatureListNet": FeatureList,
    "timm.models.features.FeatureListNet": FeatureList,
    # What older versions took EfficientNet from.
    "efficientnet_pytorch.model.MBConvBlock": MBConvBlock,
    "efficientnet_pytorch.utils.Conv2dStaticSamePadding": PaddedConv2d,
    "efficientnet_pytorch.utils.MemoryEfficientSwish": Swish,
}
