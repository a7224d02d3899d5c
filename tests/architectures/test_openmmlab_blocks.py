"""OpenMMLab's blocks, saved whole: rebuilt, they compute what is written down here; another kind is refused.

`make test-openmmlab` compares whole networks with the libraries.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.torch_layers import NotPlain
from tests.architectures.stand_ins import StandIns, changed, normalised
from tests.architectures.test_torchvision_blocks import rebuilt


class ConvModule(nn.Module):
    def __init__(self, given: int, made: int, size: int = 1, *, active: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(given, made, size, padding=size // 2, bias=False)
        self.bn, self.norm_name, self.with_norm = nn.BatchNorm2d(made), "bn", True
        self.order, self.with_activation, self.with_explicit_padding = ("conv", "norm", "act"), active, False
        if active:
            self.activate = nn.ReLU(inplace=True)


class InvertedResidual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(ConvModule(channels, 6, 3), ConvModule(6, channels, active=False))
        self.use_res_connect, self.with_cp = True, False


class MobileNetV2(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.layer1 = ConvModule(3, channels, 3), nn.Sequential(InvertedResidual(channels))
        self.layers, self.out_indices = ["layer1"], (0,)


def features(net: Any, x: torch.Tensor) -> torch.Tensor:
    """What the backbone of above gives, written down."""
    first = net.conv1
    x = F.relu(first.bn(first.conv(x)))
    wide, narrow = net.layer1[0].conv
    return x + narrow.bn(narrow.conv(F.relu(wide.bn(wide.conv(x)))))  # type: ignore[no-any-return]


class ConfigDict(dict[str, Any]):
    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return type(self), (dict(self),), None, None, None, None


class CrossEntropyLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_criterion = F.cross_entropy


class SeesawLoss(nn.Module):
    pass


class ClsDataPreprocessor(nn.Module):
    pass


class GlobalAveragePooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gap = nn.AdaptiveAvgPool2d((1, 1))


class LinearClsHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.loss_module = nn.Linear(4, 3), CrossEntropyLoss()


class ImageClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.data_preprocessor, self.backbone = ClsDataPreprocessor(), MobileNetV2(4)
        self.neck, self.head = GlobalAveragePooling(), LinearClsHead()
        self.dataset_meta = {"classes": ("cat", "dog", "eel")}
        self.init_cfg = ConfigDict(type="Kaiming")


class FCNHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs, self.conv_seg = nn.Sequential(ConvModule(4, 4)), nn.Conv2d(4, 2, 1)
        self.conv_cat = ConvModule(8, 4)
        self.input_transform, self.in_index, self.align_corners, self.concat_input = None, 0, False, True
        self.loss_decode = CrossEntropyLoss()


class EncoderDecoder(nn.Module):
    def __init__(self, test: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone, self.decode_head = MobileNetV2(4), FCNHead()
        self.test_cfg = ConfigDict(test)


class DetDataPreprocessor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1), persistent=False)
        self._channel_conversion, self._enable_normalize, self.pad_size_divisor, self.pad_value = False, True, 8, 0


class AnchorGenerator:
    def __init__(self) -> None:
        self.strides, self.base_anchors = [(4, 4)], [torch.tensor([[-4.0, -4.0, 4.0, 4.0]])]


class DeltaXYWHBBoxCoder:
    def __init__(self) -> None:
        self.means, self.stds, self.clip_border, self.add_ctr_clamp = (0.0,) * 4, (0.1, 0.1, 0.2, 0.2), True, False


class RetinaHead(nn.Module):
    """Of a feature whose channels are the scores already."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_convs, self.reg_convs = nn.ModuleList(), nn.ModuleList()
        self.retina_cls, self.retina_reg = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1)
        self.loss_cls, self.relu = CrossEntropyLoss(), nn.ReLU()
        self.prior_generator, self.bbox_coder = AnchorGenerator(), DeltaXYWHBBoxCoder()
        self.use_sigmoid_cls, self.cls_out_channels = True, 2
        nms = {"type": "nms", "iou_threshold": 0.5}
        self.test_cfg = ConfigDict(nms_pre=10, score_thr=0.5, max_per_img=5, min_bbox_size=0, nms=ConfigDict(nms))


class VGG(nn.Module):
    """Every fourth pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(4))
        self.stage_blocks, self.range_sub_modules, self.out_indices, self.num_classes = (1,), [[0, 1]], (0,), 0


class RetinaNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.data_preprocessor, self.backbone, self.bbox_head = DetDataPreprocessor(), VGG(), RetinaHead()


KNOWN = StandIns(
    {
        "mmengine.config.config": [ConfigDict],
        "mmcv.cnn.bricks.conv_module": [ConvModule],
        "mmpretrain.models.classifiers.image": [ImageClassifier],
        "mmpretrain.models.utils.data_preprocessor": [ClsDataPreprocessor],
        "mmpretrain.models.backbones.mobilenet_v2": [MobileNetV2, InvertedResidual],
        "mmpretrain.models.backbones.vgg": [VGG],
        "mmpretrain.models.necks.gap": [GlobalAveragePooling],
        "mmpretrain.models.heads.linear_head": [LinearClsHead],
        "mmpretrain.models.losses.cross_entropy_loss": [CrossEntropyLoss],
        "mmseg.models.segmentors.encoder_decoder": [EncoderDecoder],
        "mmseg.models.decode_heads.fcn_head": [FCNHead],
        "mmdet.models.losses.seesaw_loss": [SeesawLoss],
        "mmdet.models.detectors.retinanet": [RetinaNet],
        "mmdet.models.dense_heads.retina_head": [RetinaHead],
        "mmdet.models.data_preprocessors.data_preprocessor": [DetDataPreprocessor],
        "mmdet.models.task_modules.prior_generators.anchor_generator": [AnchorGenerator],
        "mmdet.models.task_modules.coders.delta_xywh_bbox_coder": [DeltaXYWHBBoxCoder],
    }
)


@pytest.fixture(autouse=True)
def stand_ins() -> Iterator[None]:
    torch.manual_seed(0)
    KNOWN.put()
    yield
    KNOWN.forget()


def classifier() -> ImageClassifier:
    return normalised(ImageClassifier().eval())  # type: ignore[return-value]


def test_a_classifier_and_its_labels(tmp_path: Path) -> None:
    net, x = classifier(), torch.rand(2, 3, 9, 7)
    found: Any = rebuilt(KNOWN.saved(net, tmp_path / "model.pt"))
    with torch.inference_mode():
        wanted = net.head.fc(features(net.backbone, x).mean((2, 3)))
        torch.testing.assert_close(found(x), wanted)
    assert found.labels == ("cat", "dog", "eel")
    assert found.takes == "float32[N, 3, ?, ?]"


@pytest.mark.parametrize(
    "change",
    [
        {"backbone.conv1.order": ("conv", "norm")},
        {"backbone.conv1.order": ("conv", "norm", "plugin")},
        {"backbone.conv1.norm_name": "gn"},
        {"backbone.conv1.with_explicit_padding": True},
        {"backbone.conv1.more": nn.Identity()},
        {"backbone.layers": ["layer1", "layer9"]},
        {"backbone.out_indices": ("0",)},
        {"head.loss_module": SeesawLoss()},
        {"head": nn.Linear(4, 3), "neck": ConvModule(4, 4), "tail": nn.Identity()},
    ],
    ids=str,
)
def test_another_kind_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    KNOWN.put()
    with pytest.raises(NotPlain):
        rebuilt(KNOWN.saved(changed(classifier(), change), tmp_path / "model.pt"))


def decoded(net: Any, x: torch.Tensor) -> torch.Tensor:
    head, y = net.decode_head, features(net.backbone, x)
    (first,) = head.convs
    both = torch.cat([y, F.relu(first.bn(first.conv(y)))], 1)
    return head.conv_seg(F.relu(head.conv_cat.bn(head.conv_cat.conv(both))))  # type: ignore[no-any-return]


def test_a_segmentor_answers_for_each_pixel(tmp_path: Path) -> None:
    net = normalised(EncoderDecoder({"mode": "whole"}).eval())
    x = torch.rand(1, 3, 8, 12)
    found = rebuilt(KNOWN.saved(net, tmp_path / "model.pt"))
    with torch.inference_mode():
        torch.testing.assert_close(found(x), decoded(net, x))


def test_a_segmentor_that_looks_at_windows(tmp_path: Path) -> None:
    net = normalised(EncoderDecoder({"mode": "slide", "crop_size": (6, 8), "stride": (4, 4)}).eval())
    x = torch.rand(1, 3, 8, 12)
    found = rebuilt(KNOWN.saved(net, tmp_path / "model.pt"))
    with torch.inference_mode():
        total, times = torch.zeros(1, 2, 8, 12), torch.zeros(1, 1, 8, 12)
        for top in (0, 2):  # the last window ends where the picture does
            for left in (0, 4):
                total[:, :, top : top + 6, left : left + 8] += decoded(net, x[:, :, top : top + 6, left : left + 8])
                times[:, :, top : top + 6, left : left + 8] += 1
        torch.testing.assert_close(found(x), total / times)


@pytest.mark.parametrize("test", [{"mode": "whole_again"}, {"mode": "slide", "crop_size": (0, 8), "stride": (4, 4)}])
def test_a_segmentor_that_looks_otherwise_is_refused(test: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotPlain, match="test_cfg"):
        rebuilt(KNOWN.saved(EncoderDecoder(test), tmp_path / "model.pt"))


def detector() -> RetinaNet:
    """One that finds the second class where a picture is red, and the first where it is blue."""
    net = RetinaNet().eval().requires_grad_(False)
    head = net.bbox_head
    for conv in (head.retina_cls, head.retina_reg):
        conv.weight.zero_()
        conv.bias.zero_()  # type: ignore[union-attr]
    head.retina_cls.weight[0, 0] = head.retina_cls.weight[1, 2] = 0.1  # of BGR, with std 1 and 4
    head.retina_cls.bias -= 10.0  # type: ignore[operator]
    head.retina_reg.bias += torch.tensor([5.0, 0.0, 0.0, 5 * torch.log(torch.tensor(1.5))])  # type: ignore[operator]
    return net


def test_a_detector_finds_what_is_there(tmp_path: Path) -> None:
    found: Any = rebuilt(KNOWN.saved(detector(), tmp_path / "model.pt"))
    pictures = torch.zeros(2, 3, 30, 22)
    pictures[0, 2, 8:12, 4:8] = 1.0  # blue, at the place (1, 2) of a feature with a stride of 4
    pictures[1, 0, 20:24, 12:16] = 1.0  # red, at (3, 5)
    pictures[1, 2, 28:32, 0:4] = 1.0  # blue, at (0, 7), whose box is cut at the picture's end
    first, second = found(pictures)
    blue = torch.sigmoid(torch.tensor(0.1 * (255 - 10) - 10.0))
    red = torch.sigmoid(torch.tensor(0.1 * (255 - 30) / 4 - 10.0))
    assert red < 0.5 < blue  # and so is not found
    # An anchor of 8 pixels around (4, 8), half a side further to the right, and half as high again.
    torch.testing.assert_close(first["boxes"], torch.tensor([[4.0, 2.0, 12.0, 14.0]]))
    torch.testing.assert_close(first["scores"], blue[None])
    assert first["labels"].tolist() == [0]
    # Half of that place is below the picture, where the frame is empty.
    torch.testing.assert_close(second["boxes"], torch.tensor([[0.0, 22.0, 8.0, 30.0]]))
    torch.testing.assert_close(second["scores"], torch.sigmoid(torch.tensor([0.1 * (255 - 10) / 2 - 10.0])))
    assert second["labels"].tolist() == [0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bbox_head.test_cfg": ConfigDict(score_thr=0.5, max_per_img=5)}, "nms_pre"),
        ({"bbox_head.test_cfg": ConfigDict(nms_pre=-1, score_thr=0.5, max_per_img=5)}, "nms_pre"),
        ({"bbox_head.loss_cls": SeesawLoss()}, "SeesawLoss"),
        ({"bbox_head.bbox_coder": {"means": 0}}, "bbox_coder"),
        ({"data_preprocessor.pad_size_divisor": 0}, "pad_size_divisor"),
        ({"data_preprocessor.pad_size_divisor": 10**9}, "pad_size_divisor"),
    ],
    ids=str,
)
def test_another_detector_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(NotPlain, match=said):
        rebuilt(KNOWN.saved(changed(detector(), change), tmp_path / "model.pt"))


@pytest.mark.parametrize(
    "nms", [{"type": "soft_nms", "iou_threshold": 0.5}, {"type": "nms"}, {"iou_threshold": 1, "x": 2}]
)
def test_another_suppression_is_refused(nms: dict[str, Any], tmp_path: Path) -> None:
    net = detector()
    net.bbox_head.test_cfg["nms"] = nms
    with pytest.raises(NotPlain):
        rebuilt(KNOWN.saved(net, tmp_path / "model.pt"))
