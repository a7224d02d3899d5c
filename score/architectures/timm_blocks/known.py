"""What a pickled network of timm computes, by its class: rebuilt of what is written here, without timm.

How pictures become its input is in the file itself, as timm's `pretrained_cfg`.
"""

from torch import nn

from score.architectures import torchvision_blocks
from score.architectures.timm_blocks import attention, convolutions, layers, swin, transformers


def _models(module: str, **classes: type[nn.Module]) -> dict[str, type[nn.Module]]:
    return {f"timm.models.{module}.{name}": cls for name, cls in classes.items()}


_EFFICIENT = {
    "ConvBnAct": convolutions.ConvBnAct,
    "DepthwiseSeparableConv": convolutions.DepthwiseSeparableConv,
    "InvertedResidual": convolutions.InvertedResidual,
    "EdgeResidual": convolutions.EdgeResidual,
    "UniversalInvertedResidual": convolutions.UniversalInvertedResidual,
}
_NETWORKS: dict[str, type[nn.Module]] = {
    **_models(
        "resnet", ResNet=convolutions.ResNet, BasicBlock=convolutions.BasicBlock, Bottleneck=convolutions.Bottleneck
    ),
    **_models("efficientnet", EfficientNet=convolutions.EfficientNet),
    **_models("_efficientnet_blocks", **_EFFICIENT),
    **_models("efficientnet_blocks", **_EFFICIENT),
    **_models("mobilenetv3", MobileNetV3=convolutions.MobileNetV3),
    **_models(
        "vision_transformer",
        VisionTransformer=transformers.VisionTransformer,
        Block=transformers.TransformerBlock,
        Attention=attention.Attention,
    ),
    **_models("vision_transformer", LayerScale=layers.LayerScale),
    **_models("deit", VisionTransformerDistilled=transformers.Distilled),
    **_models(
        "convnext",
        ConvNeXt=convolutions.ConvNeXt,
        ConvNeXtStage=convolutions.ConvNeXtStage,
        ConvNeXtBlock=convolutions.ConvNeXtBlock,
    ),
    **_models("swin_transformer", SwinTransformer=swin.SwinTransformer, SwinTransformerStage=swin.SwinStage),
    **_models("swin_transformer", SwinTransformerBlock=swin.SwinBlock, WindowAttention=attention.WindowAttention),
    **_models("swin_transformer", PatchMerging=swin.PatchMerging),
    **_models(
        "swin_transformer_v2",
        SwinTransformerV2=swin.SwinTransformer,
        SwinTransformerV2Stage=swin.SwinStage,
        SwinTransformerV2Block=swin.SwinBlockV2,
        WindowAttention=attention.CosineWindowAttention,
        PatchMerging=swin.PatchMergingV2,
    ),
    **_models("mlp_mixer", MlpMixer=transformers.MlpMixer, MixerBlock=transformers.MixerBlock),
    **_models(
        "beit",
        Beit=transformers.Beit,
        Block=transformers.BeitBlock,
        Attention=attention.BeitAttention,
        RelativePositionBias=attention.DistanceBias,
    ),
    **_models(
        "densenet",
        DenseNet=convolutions.DenseNet,
        DenseBlock=torchvision_blocks.DenseBlock,
        DenseLayer=convolutions.DenseLayer,
    ),
    **_models("densenet", DenseTransition=nn.Sequential),
    **_models("vgg", VGG=convolutions.VGG, ConvMlp=convolutions.VGGMlp),
    **_models(
        "regnet", RegNet=convolutions.RegNet, RegStage=convolutions.RegStage, Bottleneck=convolutions.RegBottleneck
    ),
}


def block(path: str) -> type[nn.Module] | None:
    """What computes as a class of timm's does; None for any other."""
    return _NETWORKS.get(path) or layers.LAYERS.get(path)
