"""What a pickled detector of detectron2 computes, by its class."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from score.architectures.block import PlainSequential
from score.architectures.detection_blocks import regions
from score.architectures.detectron2_blocks import backbones, detectors


def _of(module: str, **classes: type[nn.Module]) -> Mapping[str, type[nn.Module]]:
    return {f"detectron2.{module}.{name}": cls for name, cls in classes.items()}


_MODELS: Mapping[str, type[nn.Module]] = {
    **_of("modeling.meta_arch.rcnn", GeneralizedRCNN=detectors.RCNN),
    **_of("modeling.meta_arch.retinanet", RetinaNet=detectors.RetinaNet, RetinaNetHead=detectors.RetinaNetHead),
    **_of("modeling.backbone.fpn", FPN=backbones.FPN, LastLevelMaxPool=backbones.LastMaxPool),
    **_of("modeling.backbone.fpn", LastLevelP6P7=backbones.LastP6P7),
    **_of("modeling.backbone.resnet", ResNet=backbones.ResNet, BasicStem=backbones.Stem),
    **_of("modeling.backbone.resnet", BasicBlock=backbones.Residual, BottleneckBlock=backbones.Bottleneck),
    **_of("layers.wrappers", Conv2d=backbones.Conv2d),
    **_of("layers.batch_norm", FrozenBatchNorm2d=backbones.FrozenBatchNorm2d, NaiveSyncBatchNorm=nn.BatchNorm2d),
    **_of("layers.roi_align", ROIAlign=regions.Align),
    **_of("modeling.anchor_generator", DefaultAnchorGenerator=backbones.Anchors, BufferList=backbones.Buffers),
    **_of("modeling.proposal_generator.rpn", RPN=detectors.RPN, StandardRPNHead=detectors.RPNHead),
    **_of("modeling.poolers", ROIPooler=detectors.ROIPooler),
    **_of("modeling.roi_heads.roi_heads", StandardROIHeads=detectors.ROIHeads),
    **_of("modeling.roi_heads.fast_rcnn", FastRCNNOutputLayers=detectors.BoxPredictor),
    **_of("modeling.roi_heads.box_head", FastRCNNConvFCHead=PlainSequential),
    **_of("modeling.roi_heads.mask_head", MaskRCNNConvUpsampleHead=PlainSequential),
}
# Values that attributes hold, each with the fields that it is made of.
VALUES: Mapping[str, Any] = {"detectron2.modeling.box_regression.Box2BoxTransform": detectors.BoxTransform}


def block(path: str) -> type[nn.Module] | None:
    """What computes as a class of detectron2's does; None for any other."""
    return _MODELS.get(path)
