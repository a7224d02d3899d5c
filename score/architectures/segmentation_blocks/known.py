"""What a pickled network of segmentation-models-pytorch computes, by its class: from pictures to a mask a class.

Sources: the papers that each class names; the names of parts are those in the files.
"""

from collections.abc import Mapping

import torch
from torch import nn

from score.architectures.block import Block, channels_of, words
from score.architectures.detection_blocks import masks
from score.architectures.segmentation_blocks import ladders, modules, pyramids
from score.architectures.segmentation_blocks.encoders import ENCODERS, Encoder
from score.architectures.torchvision_blocks import LayerNorm2d


class Network(Block):
    """From pictures [N, C, H, W] to scores [N, classes, H, W]; with a head for classes, to these beside them."""

    PARTS, MAY = words("encoder decoder segmentation_head"), words("classification_head")
    ANY_SIZE = False

    def unknown(self) -> str:
        return "" if isinstance(self.encoder, Encoder) else "encoder"

    @property
    def takes(self) -> str:
        return f"float32[N, {channels_of(self)}, ?, ?]"

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        stride = self.encoder.stride
        if not self.ANY_SIZE and any(size % stride for size in x.shape[2:]):
            raise ValueError(f"pictures of {list(x.shape[2:])} pixels: height and width are multiples of {stride} here")
        features = self.encoder(x)
        masks = self.segmentation_head(self.decoder(list(features)))
        if "classification_head" not in self._modules:
            return masks  # type: ignore[no-any-return]
        return masks, self.classification_head(features[-1])


class Unet(Network):
    """Ronneberger 2015: each step goes to the size of the features that it joins."""

    ANY_SIZE = True


def _of(module: str, **classes: type[nn.Module]) -> Mapping[str, type[nn.Module]]:
    """Under the paths of all versions: until 0.2 decoders were packages of their own."""
    found = {f"segmentation_models_pytorch.{module}.{name}": cls for name, cls in classes.items()}
    return found | {path.replace(".decoders.", "."): cls for path, cls in found.items()}


_MODELS: Mapping[str, type[nn.Module]] = {
    **_of("decoders.unet.model", Unet=Unet),
    **_of(
        "decoders.unet.decoder",
        UnetDecoder=ladders.UnetDecoder,
        UnetDecoderBlock=ladders.UnetBlock,
        DecoderBlock=ladders.UnetBlock,
    ),
    **_of("decoders.unet.decoder", CenterBlock=nn.Sequential, UnetCenterBlock=nn.Sequential),
    **_of("decoders.unetplusplus.model", UnetPlusPlus=Network),
    **_of("decoders.unetplusplus.decoder", UnetPlusPlusDecoder=ladders.NestedDecoder, DecoderBlock=ladders.NestedBlock),
    **_of("decoders.unetplusplus.decoder", CenterBlock=nn.Sequential),
    **_of("decoders.fpn.model", FPN=Network),
    **_of(
        "decoders.fpn.decoder",
        FPNDecoder=pyramids.FPNDecoder,
        FPNBlock=pyramids.FPNBlock,
        SegmentationBlock=modules.Inner,
    ),
    **_of("decoders.fpn.decoder", Conv3x3GNReLU=pyramids.GroupedConv, MergeBlock=pyramids.MergeBlock),
    **_of("decoders.linknet.model", Linknet=Network),
    **_of("decoders.linknet.decoder", LinknetDecoder=ladders.SkippingDecoder, DecoderBlock=ladders.LinkBlock),
    **_of("decoders.linknet.decoder", TransposeX2=nn.Sequential),
    **_of("decoders.manet.model", MAnet=Network),
    **_of(
        "decoders.manet.decoder",
        MAnetDecoder=ladders.SkippingDecoder,
        PABBlock=ladders.PositionAttention,
        MFABBlock=ladders.FusionBlock,
    ),
    **_of(
        "decoders.manet.decoder",
        PAB=ladders.PositionAttention,
        MFAB=ladders.FusionBlock,
        DecoderBlock=ladders.PlainBlock,
    ),
    **_of("decoders.pan.model", PAN=Network),
    **_of(
        "decoders.pan.decoder",
        PANDecoder=pyramids.PANDecoder,
        FPABlock=pyramids.PyramidAttention,
        GAUBlock=pyramids.GlobalAttention,
    ),
    **_of("decoders.pan.decoder", ConvBnRelu=pyramids.PANConv),
    **_of("decoders.pspnet.model", PSPNet=Network),
    **_of(
        "decoders.pspnet.decoder",
        PSPDecoder=pyramids.PSPDecoder,
        PSPModule=pyramids.PSPModule,
        PSPBlock=pyramids.PSPBlock,
    ),
    **_of("decoders.deeplabv3.model", DeepLabV3=Network, DeepLabV3Plus=Network),
    **_of(
        "decoders.deeplabv3.decoder",
        DeepLabV3Decoder=pyramids.DeepLabDecoder,
        DeepLabV3PlusDecoder=pyramids.DeepLabPlusDecoder,
    ),
    **_of("decoders.deeplabv3.decoder", ASPP=masks.ASPP, ASPPConv=nn.Sequential, ASPPSeparableConv=nn.Sequential),
    **_of("decoders.deeplabv3.decoder", ASPPPooling=masks.ASPPPooling, SeparableConv2d=nn.Sequential),
    **_of("decoders.upernet.model", UPerNet=Network),
    **_of(
        "decoders.upernet.decoder",
        UPerNetDecoder=pyramids.UPerDecoder,
        PSPModule=pyramids.UPerPooling,
        FPNLateralBlock=pyramids.UPerLateral,
    ),
    **_of("decoders.upernet.decoder", LayerNorm2d=LayerNorm2d),
    **_of("base.heads", SegmentationHead=nn.Sequential, ClassificationHead=nn.Sequential),
    **_of(
        "base.modules",
        Conv2dReLU=nn.Sequential,
        Activation=modules.Activation,
        Attention=modules.Attention,
        SCSEModule=modules.SCSE,
    ),
    **_of("base.modules", ArgMax=modules.ArgMax, Clamp=modules.Clamp, Flatten=nn.Flatten),
}


def block(path: str) -> type[nn.Module] | None:
    """What computes as a class of segmentation-models-pytorch's does; None for any other."""
    return _MODELS.get(path) or ENCODERS.get(path)
