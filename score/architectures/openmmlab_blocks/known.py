"""What a pickled network of OpenMMLab computes, by its class."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from score.architectures.block import PlainSequential
from score.architectures.detection_blocks import regions
from score.architectures.openmmlab_blocks import (
    bricks,
    classifiers,
    convolutions,
    cross_stage,
    dense_heads,
    detectors,
    priors,
    pyramid,
    roi_heads,
    segmentors,
    transformers,
)


def _of(module: str, **classes: type[nn.Module]) -> Mapping[str, type[nn.Module]]:
    return {f"{module}.{name}": cls for name, cls in classes.items()}


_BRICKS: Mapping[str, type[nn.Module]] = {
    **_of("mmengine.model.base_module", Sequential=PlainSequential, ModuleList=bricks.Parts),
    **_of("mmcv.cnn.bricks.conv_module", ConvModule=bricks.ConvModule),
    **_of("mmcv.cnn.bricks.depthwise_separable_conv_module", DepthwiseSeparableConvModule=bricks.SeparableConv),
    **_of("mmcv.cnn.bricks.drop", DropPath=nn.Identity, Dropout=nn.Dropout),
    **_of("mmcv.cnn.bricks.wrappers", Conv2d=nn.Conv2d, ConvTranspose2d=nn.ConvTranspose2d, Linear=nn.Linear),
    **_of("mmcv.cnn.bricks.wrappers", MaxPool2d=nn.MaxPool2d),
    **_of("mmcv.cnn.bricks.swish", Swish=bricks.Swish),
    **_of("mmcv.cnn.bricks.hsigmoid", HSigmoid=bricks.HSigmoid),
    **_of("mmcv.cnn.bricks.hswish", HSwish=bricks.HSwish),
    **_of("mmcv.cnn.bricks.activation", GELU=bricks.GELU),
    **_of("mmcv.cnn.bricks.scale", Scale=bricks.Scale, LayerScale=bricks.LayerScale),
    **_of("mmcv.cnn.bricks.conv2d_adaptive_padding", Conv2dAdaptivePadding=bricks.SamePaddedConv2d),
    **_of("mmcv.cnn.bricks.transformer", FFN=transformers.FeedForward, PatchEmbed=transformers.PatchEmbed),
    **_of(
        "mmcv.cnn.bricks.transformer",
        AdaptivePadding=bricks.AdaptivePadding,
        PatchMerging=transformers.PatchMerging,
    ),
}
_RESIDUAL = {
    "BasicBlock": convolutions.BasicBlock,
    "Bottleneck": convolutions.Bottleneck,
    "ResNet": convolutions.ResNet,
    "ResNetV1c": convolutions.ResNet,
    "ResNetV1d": convolutions.ResNet,
}
_PRETRAIN: Mapping[str, type[nn.Module]] = {
    **_of("classifiers.image", ImageClassifier=classifiers.Classifier),
    **_of("utils.data_preprocessor", ClsDataPreprocessor=classifiers.Normalisation),
    **_of("necks.gap", GlobalAveragePooling=classifiers.Pooling),
    **_of("heads.cls_head", ClsHead=classifiers.Head),
    **_of("heads.linear_head", LinearClsHead=classifiers.LinearHead),
    **_of("heads.stacked_head", StackedLinearClsHead=classifiers.StackedHead, LinearBlock=classifiers.StackedLayer),
    **_of("heads.vision_transformer_head", VisionTransformerClsHead=classifiers.TokenHead),
    **_of("backbones.resnet", **_RESIDUAL, ResLayer=PlainSequential),
    **_of("backbones.resnet_cifar", ResNet_CIFAR=convolutions.ResNet),
    **_of("backbones.resnext", ResNeXt=convolutions.ResNet, Bottleneck=convolutions.Bottleneck),
    **_of("backbones.seresnet", SEResNet=convolutions.ResNet, SEBottleneck=convolutions.Bottleneck),
    **_of("backbones.seresnext", SEResNeXt=convolutions.ResNet, SEBottleneck=convolutions.Bottleneck),
    **_of("backbones.regnet", RegNet=convolutions.ResNet),
    **_of(
        "backbones.mobilenet_v2",
        MobileNetV2=convolutions.MobileNetV2,
        InvertedResidual=convolutions.LinearBottleneck,
    ),
    **_of("backbones.mobilenet_v3", MobileNetV3=convolutions.MobileNetV3),
    **_of("backbones.efficientnet", EfficientNet=convolutions.EfficientNet, EdgeResidual=convolutions.EdgeResidual),
    **_of("backbones.efficientnet_v2", EfficientNetV2=convolutions.EfficientNet),
    **_of("backbones.efficientnet_v2", EnhancedConvModule=bricks.SkippingConv),
    **_of("utils.inverted_residual", InvertedResidual=convolutions.InvertedResidual),
    **_of("utils.se_layer", SELayer=bricks.SqueezeExcite),
    **_of("backbones.vgg", VGG=convolutions.VGG),
    **_of("backbones.convnext", ConvNeXt=convolutions.ConvNeXt, ConvNeXtBlock=convolutions.ConvNeXtBlock),
    **_of("utils.norm", LayerNorm2d=bricks.LayerNorm2d, GRN=bricks.ResponseNorm),
    **_of("utils.layer_scale", LayerScale=bricks.LayerScale),
    **_of(
        "backbones.vision_transformer",
        VisionTransformer=transformers.VisionTransformer,
        TransformerEncoderLayer=transformers.EncoderLayer,
    ),
    **_of("utils.attention", MultiheadAttention=transformers.Attention, ShiftWindowMSA=transformers.ShiftedWindows),
    **_of("utils.attention", WindowMSA=transformers.WindowAttention),
    **_of("utils.embed", PatchMerging=transformers.PatchMerging),
    **_of(
        "backbones.swin_transformer",
        SwinTransformer=transformers.Swin,
        SwinBlockSequence=transformers.SwinStage,
        SwinBlock=transformers.SwinBlock,
    ),
}
_SEG: Mapping[str, type[nn.Module]] = {
    **_of("segmentors.encoder_decoder", EncoderDecoder=segmentors.Segmentor),
    **_of("data_preprocessor", SegDataPreProcessor=classifiers.Normalisation),
    **_of("backbones.resnet", **_RESIDUAL),
    **_of("backbones.resnext", ResNeXt=convolutions.ResNet, Bottleneck=convolutions.Bottleneck),
    **_of("utils.res_layer", ResLayer=PlainSequential),
    **_of(
        "utils.inverted_residual",
        InvertedResidual=convolutions.LinearBottleneck,
        InvertedResidualV3=convolutions.InvertedResidual,
    ),
    **_of("utils.se_layer", SELayer=bricks.SqueezeExcite),
    **_of("backbones.mobilenet_v2", MobileNetV2=convolutions.MobileNetV2),
    **_of("backbones.mit", MixVisionTransformer=transformers.MixTransformer, MixFFN=transformers.MixFeedForward),
    **_of(
        "backbones.mit",
        TransformerEncoderLayer=transformers.MixLayer,
        EfficientMultiheadAttention=transformers.ReducedAttention,
    ),
    **_of("utils.embed", PatchEmbed=transformers.PatchEmbed, AdaptivePadding=bricks.AdaptivePadding),
    **_of("utils.embed", PatchMerging=transformers.PatchMerging),
    **_of("backbones.unet", UNet=segmentors.UNet, BasicConvBlock=segmentors.ConvBlock),
    **_of("backbones.unet", InterpConv=segmentors.InterpConv, DeconvModule=segmentors.Deconv),
    **_of("utils.up_conv_block", UpConvBlock=segmentors.UpBlock),
    **_of("utils.wrappers", Upsample=segmentors.Upsample),
    **_of("necks.fpn", FPN=pyramid.FPN),
    **_of("decode_heads.fcn_head", FCNHead=segmentors.FCNHead),
    **_of("decode_heads.sep_fcn_head", DepthwiseSeparableFCNHead=segmentors.FCNHead),
    **_of("decode_heads.psp_head", PSPHead=segmentors.PSPHead, PPM=segmentors.Pyramid),
    **_of("decode_heads.aspp_head", ASPPHead=segmentors.ASPPHead, ASPPModule=segmentors.Side),
    **_of(
        "decode_heads.sep_aspp_head",
        DepthwiseSeparableASPPHead=segmentors.SeparableASPPHead,
        DepthwiseSeparableASPPModule=segmentors.Side,
    ),
    **_of("decode_heads.uper_head", UPerHead=segmentors.UPerHead),
    **_of("decode_heads.segformer_head", SegformerHead=segmentors.SegformerHead),
    **_of("decode_heads.fpn_head", FPNHead=segmentors.FPNHead),
}
_DET: Mapping[str, type[nn.Module]] = {
    **_of("data_preprocessors.data_preprocessor", DetDataPreprocessor=detectors.Pictures),
    **_of("detectors.retinanet", RetinaNet=detectors.SingleStage),
    **_of("detectors.atss", ATSS=detectors.SingleStage),
    **_of("detectors.fcos", FCOS=detectors.SingleStage),
    **_of("detectors.yolox", YOLOX=detectors.SingleStage),
    **_of("detectors.rtmdet", RTMDet=detectors.SingleStage),
    **_of("detectors.faster_rcnn", FasterRCNN=detectors.TwoStages),
    **_of("detectors.mask_rcnn", MaskRCNN=detectors.TwoStages),
    **_of("detectors.cascade_rcnn", CascadeRCNN=detectors.TwoStages),
    **_of("dense_heads.retina_head", RetinaHead=dense_heads.RetinaHead),
    **_of("dense_heads.atss_head", ATSSHead=dense_heads.ATSSHead),
    **_of("dense_heads.fcos_head", FCOSHead=dense_heads.FCOSHead),
    **_of("dense_heads.yolox_head", YOLOXHead=dense_heads.YOLOXHead),
    **_of("dense_heads.rtmdet_head", RTMDetSepBNHead=dense_heads.RTMDetHead),
    **_of("dense_heads.rpn_head", RPNHead=dense_heads.RPNHead),
    **_of("roi_heads.standard_roi_head", StandardRoIHead=roi_heads.StandardRoIHead),
    **_of("roi_heads.cascade_roi_head", CascadeRoIHead=roi_heads.CascadeRoIHead),
    **_of("roi_heads.roi_extractors.single_level_roi_extractor", SingleRoIExtractor=roi_heads.RoIExtractor),
    **_of("roi_heads.bbox_heads.bbox_head", BBoxHead=roi_heads.BBoxHead),
    **_of(
        "roi_heads.bbox_heads.convfc_bbox_head",
        ConvFCBBoxHead=roi_heads.BBoxHead,
        Shared2FCBBoxHead=roi_heads.BBoxHead,
        Shared4Conv1FCBBoxHead=roi_heads.BBoxHead,
    ),
    **_of("roi_heads.mask_heads.fcn_mask_head", FCNMaskHead=roi_heads.MaskHead),
    **_of("backbones.resnet", **_RESIDUAL),
    **_of("backbones.resnext", ResNeXt=convolutions.ResNet, Bottleneck=convolutions.Bottleneck),
    **_of("layers.res_layer", ResLayer=PlainSequential),
    **_of("necks.fpn", FPN=pyramid.FPN),
    **_of("backbones.csp_darknet", CSPDarknet=cross_stage.CSPBackbone, Focus=cross_stage.Focus),
    **_of("backbones.csp_darknet", SPPBottleneck=cross_stage.SPPBottleneck),
    **_of("backbones.cspnext", CSPNeXt=cross_stage.CSPBackbone),
    **_of("layers.csp_layer", CSPLayer=cross_stage.CSPLayer, DarknetBottleneck=cross_stage.CSPBlock),
    **_of("layers.csp_layer", CSPNeXtBlock=cross_stage.CSPBlock),
    **_of("layers.se_layer", ChannelAttention=cross_stage.ChannelAttention),
    **_of("necks.yolox_pafpn", YOLOXPAFPN=cross_stage.PathAggregation),
    **_of("necks.cspnext_pafpn", CSPNeXtPAFPN=cross_stage.PathAggregation),
}
_MODELS: Mapping[str, type[nn.Module]] = {
    **_BRICKS,
    **{f"mmpretrain.models.{path}": cls for path, cls in _PRETRAIN.items()},
    **{f"mmseg.models.{path}": cls for path, cls in _SEG.items()},
    **{f"mmdet.models.{path}": cls for path, cls in _DET.items()},
    "mmcv.ops.roi_align.RoIAlign": regions.Align,
}
# Dicts whose keys are attributes too; and values that attributes hold, each with the fields that it is made of.
DICTS = frozenset(("mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict"))
VALUES: Mapping[str, Any] = {
    f"mmdet.models.task_modules.{path}": kind
    for path, kind in {
        "coders.delta_xywh_bbox_coder.DeltaXYWHBBoxCoder": priors.DeltaCoder,
        "coders.distance_point_bbox_coder.DistancePointBBoxCoder": priors.DistanceCoder,
        "prior_generators.anchor_generator.AnchorGenerator": priors.AnchorGenerator,
        "prior_generators.point_generator.MlvlPointGenerator": priors.PointGenerator,
    }.items()
}
_UNUSED = ("mmpretrain.models.losses.", "mmseg.models.losses.", "mmdet.models.losses.")
_TELLS = ".SeesawLoss"  # which has scores of its own


def block(path: str) -> type[nn.Module] | None:
    """What computes as a class of OpenMMLab's does; None for any other."""
    unused = path.startswith(_UNUSED) and not path.endswith(_TELLS)
    return bricks.Unused if unused else _MODELS.get(path)
