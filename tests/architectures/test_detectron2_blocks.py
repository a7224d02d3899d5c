"""detectron2's detectors, saved whole: rebuilt, they find what was worked out by hand; another kind is refused.

The library is on no package index. Faster and Mask R-CNN and RetinaNet were compared with it by hand, at its commit
`02b5c4e`: boxes within 4e-6 pixels, labels and masks equal.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.torch_layers import NotPlain
from tests.architectures.stand_ins import StandIns, changed
from tests.architectures.test_torchvision_blocks import rebuilt


class Conv2d(nn.Conv2d):
    def __init__(self, *given: Any, norm: Any = None, activation: Any = None, **more: Any) -> None:
        super().__init__(*given, **more)
        self.norm, self.activation = norm, activation


class FrozenBatchNorm2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features, self.eps = channels, 1e-5
        for name, value in {"weight": 2.0, "bias": 0.5, "running_mean": 0.25, "running_var": 4.0}.items():
            self.register_buffer(name, torch.full((channels,), value))


class BasicStem(nn.Module):
    """Pictures a quarter as large."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, 3, 1, stride=2, bias=False)
        nn.init.dirac_(self.conv1.weight)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.res2 = BasicStem(), nn.Sequential()
        self.stages, self.stage_names, self._out_features, self.num_classes = [self.res2], ("res2",), ["res2"], None


class LastLevelMaxPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_levels, self.in_feature = 1, "p2"


class FPN(nn.Module):
    """The pictures' own channels, a quarter as large, and an eighth."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom_up, self.top_block = ResNet(), LastLevelMaxPool()
        for name in ("fpn_lateral2", "fpn_output2"):
            conv = Conv2d(3, 3, 1, bias=False)
            nn.init.dirac_(conv.weight)
            self.add_module(name, conv)
        self.lateral_convs, self.output_convs = (self.fpn_lateral2,), (self.fpn_output2,)
        self.in_features, self._out_features, self._size_divisibility = ("res2",), ["p2", "p3"], 8
        self._fuse_type, self._square_pad = "sum", 0


class BufferList(nn.Module):
    def __init__(self, values: list[torch.Tensor]) -> None:
        super().__init__()
        for at, value in enumerate(values):
            self.register_buffer(str(at), value, persistent=False)


class DefaultAnchorGenerator(nn.Module):
    def __init__(self, strides: list[int], sides: list[float]) -> None:
        super().__init__()
        self.strides, self.offset = strides, 0.0
        self.cell_anchors = BufferList([torch.tensor([[-side, -side, side, side]]) / 2 for side in sides])


class Box2BoxTransform:
    def __init__(self, weights: tuple[float, ...]) -> None:
        self.weights, self.scale_clamp = weights, math.log(1000 / 16)


class RetinaNetHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_subnet, self.bbox_subnet = nn.Sequential(), nn.Sequential()
        self.cls_score, self.bbox_pred = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1)


class RetinaNet(nn.Module):
    """Finds the first class where it is blue, and the second where it is red."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head, self.head_in_features = FPN(), RetinaNetHead(), ["p2", "p3"]
        self.anchor_generator = DefaultAnchorGenerator([4, 8], [8.0, 16.0])
        self.box2box_transform, self.num_classes = Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), 2
        self.test_score_thresh, self.test_topk_candidates, self.test_nms_thresh = 0.5, 10, 0.5
        self.max_detections_per_image, self.input_format = 10, "BGR"
        pictures(self)
        for conv in (self.head.cls_score, self.head.bbox_pred):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.head.cls_score.weight[0, 0] = self.head.cls_score.weight[1, 2] = 0.1
            self.head.cls_score.bias -= 10.0  # type: ignore[operator]
            self.head.bbox_pred.bias += torch.tensor([0.5, 0.0, 0.0, math.log(1.5)])  # type: ignore[operator]


def pictures(net: nn.Module) -> None:
    net.register_buffer("pixel_mean", torch.tensor([10.0, 0.0, 0.0]).view(3, 1, 1), persistent=False)
    net.register_buffer("pixel_std", torch.ones(3, 1, 1), persistent=False)


class StandardRPNHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2d(3, 3, 1, activation=nn.ReLU())
        self.objectness_logits, self.anchor_deltas = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 4, 1)
        nn.init.dirac_(self.conv.weight)
        for conv in (self.objectness_logits, self.anchor_deltas):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        nn.init.ones_(self.objectness_logits.weight)


class RPN(nn.Module):
    """Proposes the brightest place."""

    def __init__(self) -> None:
        super().__init__()
        self.rpn_head, self.anchor_generator = StandardRPNHead(), DefaultAnchorGenerator([4], [8.0])
        self.in_features, self.box2box_transform = ["p2"], Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
        self.pre_nms_topk, self.post_nms_topk = {True: 9, False: 4}, {True: 9, False: 1}
        self.nms_thresh, self.min_box_size = 0.7, 0.0


class ROIAlign(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned = (size, size), 0.25, 0, True


class ROIPooler(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.level_poolers, self.output_size = nn.ModuleList([ROIAlign(size)]), (size, size)
        self.min_level = self.max_level = 2
        self.canonical_level, self.canonical_box_size = 4, 224


class FastRCNNConvFCHead(nn.Sequential):
    pass


class MaskRCNNConvUpsampleHead(nn.Sequential):
    pass


class FastRCNNOutputLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(2, 3), nn.Linear(2, 8)
        self.box2box_transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
        self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image = 0.2, 0.5, 100
        self.use_sigmoid_ce = False
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.cls_score.bias += torch.tensor([1.0, 2.0, 1.0])
            self.bbox_pred.bias[4] += 5.0  # the second class: half a width to the right


class StandardROIHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.box_pooler, self.mask_pooler = ROIPooler(1), ROIPooler(2)
        self.box_head = FastRCNNConvFCHead(nn.Flatten(), nn.Linear(3, 2), nn.ReLU())
        self.box_predictor, self.mask_head = FastRCNNOutputLayers(), MaskRCNNConvUpsampleHead(Conv2d(3, 2, 1))
        (last,) = self.mask_head
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([3.0, -3.0]))  # the second class has no mask
        self.box_in_features = self.mask_in_features = ["p2"]
        self.mask_on, self.keypoint_on = True, False


class GeneralizedRCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.proposal_generator, self.roi_heads = FPN(), RPN(), StandardROIHeads()
        self.input_format = "RGB"
        pictures(self)


KNOWN = StandIns(
    {
        "detectron2.layers.wrappers": [Conv2d],
        "detectron2.layers.batch_norm": [FrozenBatchNorm2d],
        "detectron2.layers.roi_align": [ROIAlign],
        "detectron2.modeling.anchor_generator": [DefaultAnchorGenerator, BufferList],
        "detectron2.modeling.backbone.fpn": [FPN, LastLevelMaxPool],
        "detectron2.modeling.backbone.resnet": [ResNet, BasicStem],
        "detectron2.modeling.box_regression": [Box2BoxTransform],
        "detectron2.modeling.meta_arch.rcnn": [GeneralizedRCNN],
        "detectron2.modeling.meta_arch.retinanet": [RetinaNet, RetinaNetHead],
        "detectron2.modeling.poolers": [ROIPooler],
        "detectron2.modeling.proposal_generator.rpn": [RPN, StandardRPNHead],
        "detectron2.modeling.roi_heads.box_head": [FastRCNNConvFCHead],
        "detectron2.modeling.roi_heads.fast_rcnn": [FastRCNNOutputLayers],
        "detectron2.modeling.roi_heads.mask_head": [MaskRCNNConvUpsampleHead],
        "detectron2.modeling.roi_heads.roi_heads": [StandardROIHeads],
    }
)


@pytest.fixture(autouse=True)
def stand_ins() -> Iterator[None]:
    KNOWN.put()
    yield
    KNOWN.forget()


def test_a_convolution_with_its_norm_and_activation(tmp_path: Path) -> None:
    for activation in (F.relu, nn.ReLU(), None):
        KNOWN.put()
        conv = Conv2d(2, 3, 3, norm=FrozenBatchNorm2d(3), activation=activation)
        x = torch.randn(1, 2, 5, 5)
        wanted = (F.conv2d(x, conv.weight, conv.bias) - 0.25) / math.sqrt(4.0 + 1e-5) * 2.0 + 0.5
        found = rebuilt(KNOWN.saved(nn.Sequential(conv), tmp_path / "model.pt"))(x)
        torch.testing.assert_close(found, wanted if activation is None else wanted.relu())


def test_retinanet_finds_what_is_there(tmp_path: Path) -> None:
    found: Any = rebuilt(KNOWN.saved(RetinaNet().eval(), tmp_path / "model.pt"))
    x = torch.zeros(2, 3, 30, 22)
    x[0, 2, 8, 4] = 1.0  # blue, where a quarter of the picture has its pixel (1, 2), and no eighth
    x[1, 0, 16, 8] = 1.0  # red, at (2, 4), and at (1, 2) of the eighth
    first, second = found(x)
    torch.testing.assert_close(first["boxes"], torch.tensor([[4.0, 2.0, 12.0, 14.0]]))
    torch.testing.assert_close(first["scores"], torch.sigmoid(torch.tensor([0.1 * 245 - 10])))
    assert first["labels"].tolist() == [0]
    # Of two anchors around (8, 16), each half a side further to the right and half as high again.
    assert sorted(second["boxes"].tolist()) == [[8.0, 4.0, 22.0, 28.0], [8.0, 10.0, 16.0, 22.0]]
    torch.testing.assert_close(second["scores"], torch.sigmoid(torch.tensor([15.5, 15.5])))
    assert second["labels"].tolist() == [1, 1]


def test_mask_rcnn_finds_what_is_there(tmp_path: Path) -> None:
    found: Any = rebuilt(KNOWN.saved(GeneralizedRCNN().eval(), tmp_path / "model.pt"))
    x = torch.zeros(1, 3, 30, 22)
    x[0, 0, 12, 8] = 1.0
    (only,) = found(x)
    # The proposal is the anchor around (8, 12); the second class moves it by half its width.
    likely = torch.tensor([1.0, 2.0, 1.0]).softmax(0)
    torch.testing.assert_close(only["boxes"], torch.tensor([[8.0, 8.0, 16.0, 16.0], [4.0, 8.0, 12.0, 16.0]]))
    torch.testing.assert_close(only["scores"], torch.stack([likely[1], likely[0]]))
    assert only["labels"].tolist() == [1, 0]
    assert not only["masks"][0].any()
    # A map of two pixels by two fades out at its rim, and in the corners it does so twice.
    whole = {(y, x) for y in range(8, 16) for x in range(4, 12)}
    corners = {(y, x) for y in (8, 15) for x in (4, 11)}
    assert {tuple(place) for place in only["masks"][1].nonzero().tolist()} == whole - corners


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_format": "HSV"}, "input_format"),
        ({"backbone._square_pad": 32}, "_square_pad"),
        ({"backbone._fuse_type": "max"}, "_fuse_type|in_features"),
        ({"backbone.bottom_up.num_classes": 5}, "stage_names"),
        ({"roi_heads.keypoint_on": True}, "keypoint_on"),
        ({"roi_heads.mask_on": False}, "keypoint_on|in_features"),
        ({"roi_heads.keypoint_head": nn.Identity()}, "keypoint_head"),
        ({"roi_heads.box_predictor.box2box_transform": None}, "box2box_transform"),
        ({"proposal_generator.pre_nms_topk": {True: 1}}, "False"),
    ],
    ids=str,
)
def test_another_kind_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(NotPlain, match=said):
        rebuilt(KNOWN.saved(changed(GeneralizedRCNN(), change), tmp_path / "model.pt"))
