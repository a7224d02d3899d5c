"""Configurations of small networks of OpenMMLab's, as their libraries build them."""

from typing import Any

Config = dict[str, Any]
ENTROPY: Config = {"type": "CrossEntropyLoss", "loss_weight": 1.0}
_NORMALISED: Config = {"mean": [123.0, 116.0, 103.0], "std": [58.0, 57.0, 57.0]}
BN: Config = {"type": "BN", "requires_grad": True}
CONVNEXT: Config = {"type": "ConvNeXt", "arch": "atto", "drop_path_rate": 0.1}
DEIT: Config = {"type": "VisionTransformer", "arch": "deit-tiny", "img_size": 224, "patch_size": 16}


def classifier(backbone: Config, channels: int, head: Config | None = None, *, pooled: bool = True) -> Config:
    linear = {"type": "LinearClsHead", "num_classes": 5, "in_channels": channels, "loss": ENTROPY}
    return {
        "type": "ImageClassifier", "backbone": backbone, "head": head or linear,
        "neck": {"type": "GlobalAveragePooling"} if pooled else None,
        "data_preprocessor": {"num_classes": 5, "to_rgb": True, **_NORMALISED},
    }  # fmt: skip


def _token_head(channels: int) -> Config:
    loss = {"type": "LabelSmoothLoss", "label_smooth_val": 0.1}
    return {"type": "VisionTransformerClsHead", "num_classes": 5, "in_channels": channels, "loss": loss}


_STACKED = {
    "type": "StackedLinearClsHead", "num_classes": 5, "in_channels": 576, "mid_channels": [64], "dropout_rate": 0.2,
    "act_cfg": {"type": "HSwish"}, "loss": ENTROPY,
}  # fmt: skip
_GIVEN: Config = {"type": "ClsHead", "loss": ENTROPY}
CLASSIFIERS: dict[str, Config] = {
    "resnet18": classifier({"type": "ResNet", "depth": 18}, 512),
    "resnet50": classifier({"type": "ResNet", "depth": 50}, 2048),
    "resnetv1c50": classifier({"type": "ResNetV1c", "depth": 50}, 2048),
    "resnetv1d50": classifier({"type": "ResNetV1d", "depth": 50}, 2048),
    "resnext50": classifier({"type": "ResNeXt", "depth": 50, "groups": 32, "width_per_group": 4}, 2048),
    "seresnet50": classifier({"type": "SEResNet", "depth": 50}, 2048),
    "resnet_cifar": classifier({"type": "ResNet_CIFAR", "depth": 18}, 512),
    "regnet": classifier({"type": "RegNet", "arch": "regnetx_400mf"}, 384),
    "mobilenet_v2": classifier({"type": "MobileNetV2", "widen_factor": 0.5}, 1280),
    "mobilenet_v3": classifier({"type": "MobileNetV3", "arch": "small"}, 576, _STACKED),
    "efficientnet_b0": classifier({"type": "EfficientNet", "arch": "b0"}, 1280),
    "efficientnet_v2": classifier({"type": "EfficientNetV2", "arch": "s"}, 1280),
    "vgg11": classifier({"type": "VGG", "depth": 11, "num_classes": 5}, 5, _GIVEN, pooled=False),
    "vgg16_bn": classifier({"type": "VGG", "depth": 16, "norm_cfg": {"type": "BN"}}, 512),
    "convnext": classifier(CONVNEXT, 320, pooled=False),
    "convnext_v2": classifier(CONVNEXT | {"use_grn": True, "layer_scale_init_value": 0.0}, 320, pooled=False),
    "deit": classifier(DEIT, 192, _token_head(192), pooled=False),
    "vit_mean": classifier(
        DEIT | {"img_size": 64, "out_type": "avg_featmap", "layer_scale_init_value": 0.1}, 192, pooled=False
    ),
    "swin": classifier({"type": "SwinTransformer", "arch": "tiny", "img_size": 224, "drop_path_rate": 0.2}, 768),
}  # fmt: skip


def _segmentor(backbone: Config, head: Config, neck: Config | None = None, auxiliary: Config | None = None) -> Config:
    return {
        "type": "EncoderDecoder", "backbone": backbone, "neck": neck, "decode_head": head, "auxiliary_head": auxiliary,
        "data_preprocessor": {
            "type": "SegDataPreProcessor", "bgr_to_rgb": True, "pad_val": 0, "seg_pad_val": 255, "size": (64, 64),
            **_NORMALISED,
        },
        "train_cfg": {}, "test_cfg": {"mode": "whole"},
    }  # fmt: skip


def _decoding(kind: str, **more: Any) -> Config:
    return {
        "type": kind, "in_channels": 512, "in_index": 3, "channels": 32, "dropout_ratio": 0.1, "num_classes": 5,
        "norm_cfg": BN, "align_corners": False, "loss_decode": ENTROPY, **more,
    }  # fmt: skip


_RESNET: Config = {
    "type": "ResNetV1c", "depth": 18, "num_stages": 4, "out_indices": (0, 1, 2, 3), "dilations": (1, 1, 2, 4),
    "strides": (1, 2, 1, 1), "norm_cfg": BN, "norm_eval": False, "style": "pytorch", "contract_dilation": True,
}  # fmt: skip
_LEVELS: Config = {"in_channels": [64, 128, 256, 512], "in_index": [0, 1, 2, 3]}
_MIT: Config = {
    "type": "MixVisionTransformer", "in_channels": 3, "embed_dims": 16, "num_stages": 4, "num_layers": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8], "patch_sizes": [7, 3, 3, 3], "sr_ratios": [8, 4, 2, 1], "out_indices": (0, 1, 2, 3),
    "mlp_ratio": 4, "qkv_bias": True, "drop_path_rate": 0.1,
}  # fmt: skip
_UNET: Config = {
    "type": "UNet", "in_channels": 3, "base_channels": 8, "num_stages": 5, "strides": (1,) * 5,
    "enc_num_convs": (2,) * 5, "dec_num_convs": (2,) * 4, "downsamples": (True,) * 4, "enc_dilations": (1,) * 5,
    "dec_dilations": (1,) * 4, "norm_cfg": BN, "act_cfg": {"type": "ReLU"}, "upsample_cfg": {"type": "InterpConv"},
}  # fmt: skip
_MOBILE: Config = {
    "type": "MobileNetV2", "widen_factor": 1.0, "strides": (1, 2, 2, 1, 1, 1, 1), "dilations": (1, 1, 1, 2, 2, 4, 4),
    "out_indices": (1, 2, 4, 6), "norm_cfg": BN,
}  # fmt: skip
_ASPP = {"dilations": (1, 6, 12, 18)}
SEGMENTORS: dict[str, Config] = {
    "fcn": _segmentor(
        _RESNET, _decoding("FCNHead", num_convs=2, concat_input=True),
        auxiliary=_decoding("FCNHead", in_channels=256, in_index=2, num_convs=1, concat_input=False),
    ),
    "pspnet": _segmentor(_RESNET, _decoding("PSPHead", pool_scales=(1, 2, 3, 6), align_corners=True)),
    "deeplabv3": _segmentor(_RESNET, _decoding("ASPPHead", **_ASPP))
    | {"test_cfg": {"mode": "slide", "crop_size": (64, 64), "stride": (40, 40)}},
    "deeplabv3plus": _segmentor(
        _RESNET, _decoding("DepthwiseSeparableASPPHead", **_ASPP, c1_in_channels=64, c1_channels=16)
    ),
    "upernet": _segmentor(_RESNET, _decoding("UPerHead", **_LEVELS, pool_scales=(1, 2, 3, 6))),
    "segformer": _segmentor(
        _MIT, _decoding("SegformerHead", in_channels=[16, 32, 64, 128], in_index=[0, 1, 2, 3])
    ),
    "fpn": _segmentor(
        _RESNET | {"dilations": (1,) * 4, "strides": (1, 2, 2, 2)},
        _decoding("FPNHead", in_channels=[32] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32]),
        {"type": "FPN", "in_channels": [64, 128, 256, 512], "out_channels": 32, "num_outs": 4},
    ),
    "unet": _segmentor(
        _UNET, _decoding("FCNHead", in_channels=8, in_index=4, channels=8, num_convs=1, concat_input=False)
    ),
    "mobilenet": _segmentor(_MOBILE, _decoding("FCNHead", in_channels=320)),
}  # fmt: skip

_PICTURES: Config = {
    "type": "DetDataPreprocessor", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True, "pad_size_divisor": 32,
}  # fmt: skip
_BACKBONE: Config = {
    "type": "ResNet", "depth": 18, "num_stages": 4, "out_indices": (0, 1, 2, 3), "frozen_stages": 1, "norm_cfg": BN,
    "norm_eval": True, "style": "pytorch",
}  # fmt: skip
_FPN: Config = {"type": "FPN", "in_channels": [64, 128, 256, 512], "out_channels": 32, "num_outs": 5}
_FPN_FROM_1 = _FPN | {"start_level": 1, "add_extra_convs": "on_output"}
_NMS: Config = {"type": "nms", "iou_threshold": 0.5}
_TEST: Config = {"nms_pre": 1000, "min_bbox_size": 0, "score_thr": 0.05, "nms": _NMS, "max_per_img": 100}
_CODER: Config = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}
_RATIOS = [0.5, 1.0, 2.0]
_STRIDES = [8, 16, 32, 64, 128]


def _single(kind: str, head: Config, **more: Any) -> Config:
    shape = {"num_classes": 5, "in_channels": 32, "stacked_convs": 2, "feat_channels": 32}
    return {
        "type": kind, "data_preprocessor": _PICTURES, "backbone": _BACKBONE, "neck": _FPN_FROM_1,
        "bbox_head": head | shape, "train_cfg": {}, "test_cfg": _TEST, **more,
    }  # fmt: skip


def _csp(kind: str, neck: str, activation: str, **more: Any) -> Config:
    given = {"norm_cfg": {"type": "BN"}, "act_cfg": {"type": activation}}
    pyramid = {"type": neck, "in_channels": [32, 64, 128], "out_channels": 32, "num_csp_blocks": 1}
    return {"backbone": {"type": kind, "widen_factor": 0.125, **given, **more}, "neck": pyramid | given}


_REGION: Config = {
    "type": "RPNHead", "in_channels": 32, "feat_channels": 32,
    "anchor_generator": {"type": "AnchorGenerator", "scales": [8], "ratios": _RATIOS, "strides": [4, 8, 16, 32, 64]},
    "bbox_coder": _CODER | {"target_stds": [1.0] * 4}, "loss_cls": ENTROPY | {"use_sigmoid": True},
    "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
}  # fmt: skip


def _reading(size: int) -> Config:
    layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0}
    strides = [4, 8, 16, 32]
    return {"type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": 32, "featmap_strides": strides}


_BOXES: Config = {
    "type": "Shared2FCBBoxHead", "in_channels": 32, "fc_out_channels": 64, "roi_feat_size": 7, "num_classes": 5,
    "bbox_coder": _CODER, "reg_class_agnostic": False, "loss_cls": ENTROPY,
    "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
}  # fmt: skip
_SHARED = _BOXES | {"reg_class_agnostic": True}
_MASKS: Config = {
    "type": "FCNMaskHead", "num_convs": 2, "in_channels": 32, "conv_out_channels": 16, "num_classes": 5,
    "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
}  # fmt: skip


def _two_stages(kind: str, head: Config) -> Config:
    first = {"nms_pre": 1000, "max_per_img": 30, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
    second = {"score_thr": 0.05, "nms": _NMS, "max_per_img": 15, "mask_thr_binary": 0.5}
    return {
        "type": kind, "data_preprocessor": _PICTURES, "backbone": _BACKBONE, "neck": _FPN, "rpn_head": _REGION,
        "roi_head": head, "train_cfg": None, "test_cfg": {"rpn": first, "rcnn": second},
    }  # fmt: skip


_STANDARD: Config = {"type": "StandardRoIHead", "bbox_roi_extractor": _reading(7), "bbox_head": _BOXES}
_MASKED: Config = {"mask_roi_extractor": _reading(14), "mask_head": _MASKS}
_PRIORS: Config = {"type": "AnchorGenerator", "strides": _STRIDES, "octave_base_scale": 4, "scales_per_octave": 3}
DETECTORS: dict[str, Config] = {
    "retinanet": _single(
        "RetinaNet",
        {"type": "RetinaHead", "anchor_generator": _PRIORS | {"ratios": _RATIOS}, "bbox_coder": _CODER},
    ),
    "atss": _single(
        "ATSS",
        {
            "type": "ATSSHead", "bbox_coder": _CODER,
            "anchor_generator": _PRIORS | {"ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1},
        },
    ),
    "fcos": _single(
        "FCOS",
        {"type": "FCOSHead", "strides": _STRIDES, "norm_on_bbox": True, "centerness_on_reg": True},
        neck=_FPN_FROM_1 | {"relu_before_extra_convs": True},
        data_preprocessor=_PICTURES | {"bgr_to_rgb": False, "mean": [103.0, 116.0, 122.7], "std": [1.0, 1.0, 1.0]},
    ),
    "yolox": _single(
        "YOLOX",
        {"type": "YOLOXHead", "strides": (8, 16, 32), "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "Swish"}},
        **_csp("CSPDarknet", "YOLOXPAFPN", "Swish", deepen_factor=0.33, out_indices=(2, 3, 4)),
        test_cfg={"score_thr": 0.01, "nms": {"type": "nms", "iou_threshold": 0.65}},
        data_preprocessor={"type": "DetDataPreprocessor", "pad_size_divisor": 32},
    ),
    "rtmdet": _single(
        "RTMDet",
        {
            "type": "RTMDetSepBNHead", "bbox_coder": {"type": "DistancePointBBoxCoder"}, "with_objectness": False,
            "anchor_generator": {"type": "MlvlPointGenerator", "offset": 0, "strides": [8, 16, 32]},
            "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0}, "exp_on_reg": True, "share_conv": True,
            "pred_kernel_size": 1, "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "SiLU"},
        },
        **_csp("CSPNeXt", "CSPNeXtPAFPN", "SiLU", arch="P5", deepen_factor=0.167, channel_attention=True),
        test_cfg=_TEST | {"nms_pre": 30000, "score_thr": 0.001},
    ),
    "faster_rcnn": _two_stages("FasterRCNN", _STANDARD),
    "mask_rcnn": _two_stages("MaskRCNN", _STANDARD | _MASKED | {"bbox_head": _SHARED}),
    "cascade_rcnn": _two_stages(
        "CascadeRCNN",
        _STANDARD | _MASKED
        | {"type": "CascadeRoIHead", "num_stages": 2, "stage_loss_weights": [1, 0.5], "bbox_head": [_SHARED, _SHARED]},
    ),
}  # fmt: skip
