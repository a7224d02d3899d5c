"""What a pickled detector of torchvision, or a network of it for masks, computes, by its class.

Sources: the papers that each class names; the names of parts are those in the files.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from score.architectures.detection_blocks import backbones, boxes, dense, detector, masks, rcnn


def _of(module: str, **classes: type) -> Mapping[str, type]:
    return {f"torchvision.{module}.{name}": cls for name, cls in classes.items()}


_MODELS: Mapping[str, type[nn.Module]] = {
    **_of("models._utils", IntermediateLayerGetter=backbones.LayerGetter),
    **_of("models.detection.backbone_utils", BackboneWithFPN=backbones.WithPyramid),
    **_of("ops.feature_pyramid_network", FeaturePyramidNetwork=backbones.Pyramid),
    **_of("ops.feature_pyramid_network", LastLevelMaxPool=backbones.LastMaxPool, LastLevelP6P7=backbones.LastP6P7),
    **_of("ops.misc", FrozenBatchNorm2d=backbones.FrozenBatchNorm2d, ConvTranspose2d=nn.ConvTranspose2d),
    **_of("models.detection.transform", GeneralizedRCNNTransform=detector.Transform),
    **_of("models.detection.anchor_utils", AnchorGenerator=backbones.Anchors),
    **_of("models.detection.anchor_utils", DefaultBoxGenerator=backbones.DefaultBoxes),
    **_of("models.detection.rpn", AnchorGenerator=backbones.Anchors),  # until 0.7
    **_of("models.detection.rpn", RegionProposalNetwork=rcnn.RegionProposals, RPNHead=rcnn.ProposalHead),
    **_of("models.detection.roi_heads", RoIHeads=rcnn.RoIHeads),
    **_of("ops.poolers", MultiScaleRoIAlign=rcnn.MultiScaleAlign),
    **_of("models.detection.faster_rcnn", FasterRCNN=rcnn.RCNN, TwoMLPHead=rcnn.TwoLayers),
    **_of("models.detection.faster_rcnn", FastRCNNPredictor=rcnn.Predictor, FastRCNNConvFCHead=nn.Sequential),
    **_of("models.detection.mask_rcnn", MaskRCNN=rcnn.RCNN, MaskRCNNHeads=nn.Sequential),
    **_of("models.detection.mask_rcnn", MaskRCNNPredictor=nn.Sequential),
    **_of("models.detection.keypoint_rcnn", KeypointRCNN=rcnn.RCNN, KeypointRCNNHeads=nn.Sequential),
    **_of("models.detection.keypoint_rcnn", KeypointRCNNPredictor=rcnn.KeypointPredictor),
    **_of("models.detection.retinanet", RetinaNet=dense.Dense, RetinaNetHead=dense.RetinaHead),
    **_of("models.detection.retinanet", RetinaNetClassificationHead=dense.Scores, RetinaNetRegressionHead=dense.Ways),
    **_of("models.detection.fcos", FCOS=dense.Dense, FCOSHead=dense.FCOSHead),
    **_of("models.detection.fcos", FCOSClassificationHead=dense.Scores, FCOSRegressionHead=dense.FCOSWays),
    **_of("models.detection.ssd", SSD=dense.SSD, SSDHead=dense.SSDHead),
    **_of("models.detection.ssd", SSDFeatureExtractorVGG=backbones.SSDFeaturesVGG),
    **_of("models.detection.ssd", SSDClassificationHead=dense.PerFeature, SSDRegressionHead=dense.PerFeature),
    **_of("models.detection.ssdlite", SSDLiteFeatureExtractorMobileNet=backbones.SSDFeaturesMobile),
    **_of("models.detection.ssdlite", SSDLiteHead=dense.SSDHead, SSDLiteClassificationHead=dense.PerFeature),
    **_of("models.detection.ssdlite", SSDLiteRegressionHead=dense.PerFeature),
    **_of("models.segmentation.deeplabv3", DeepLabV3=masks.Masks, DeepLabHead=nn.Sequential),
    **_of("models.segmentation.deeplabv3", ASPP=masks.ASPP, ASPPConv=nn.Sequential),
    **_of("models.segmentation.deeplabv3", ASPPPooling=masks.ASPPPooling),
    **_of("models.segmentation.fcn", FCN=masks.Masks, FCNHead=nn.Sequential),
    **_of("models.segmentation.lraspp", LRASPP=masks.LRASPP, LRASPPHead=masks.LRASPPHead),
}
# Values that attributes hold, each with the fields that it is made of.
VALUES: Mapping[str, Any] = _of(
    "models.detection._utils", BoxCoder=boxes.BoxCoder, BoxLinearCoder=boxes.BoxLinearCoder
)  # fmt: skip


def block(path: str) -> type[nn.Module] | None:
    """What computes as a class of torchvision's does; None for any other."""
    return _MODELS.get(path)
