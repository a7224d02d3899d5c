"""Detectors of torchvision, by stand-ins under its names, and what they are made of, against what is slow and plain.

`make test-blocks` holds ten detectors and four networks for masks against torchvision itself.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.architectures.detection_blocks import boxes, rcnn
from score.architectures.detection_blocks.boxes import BoxCoder as OurCoder
from score.architectures.torch_layers import NotPlain
from score.inference import pipeline
from score.settings import Settings
from tests.architectures.stand_ins import StandIns, changed
from tests.architectures.test_torchvision_blocks import rebuilt


def random_boxes(count: int, side: float) -> torch.Tensor:
    corners = torch.rand(count, 2, 2).sort(dim=1).values * side
    return torch.cat((corners[:, 0], corners[:, 1]), 1)


def between(feature: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """A feature [C, H, W] between its pixels: He 2017, figure 3."""
    high, wide = feature.shape[1:]
    if not (-1 <= y <= high and -1 <= x <= wide):
        return torch.zeros(len(feature))
    y, x = min(max(y, 0.0), high - 1.0), min(max(x, 0.0), wide - 1.0)
    top, left = min(int(y), high - 1), min(int(x), wide - 1)
    bottom, right = min(top + 1, high - 1), min(left + 1, wide - 1)
    dy, dx = y - top, x - left
    upper = feature[:, top, left] * (1 - dx) + feature[:, top, right] * dx
    lower = feature[:, bottom, left] * (1 - dx) + feature[:, bottom, right] * dx
    return upper * (1 - dy) + lower * dy


@pytest.mark.parametrize("sampling", [2, 0])
def test_features_are_read_between_their_pixels(sampling: int) -> None:
    torch.manual_seed(2)
    features, given = torch.randn(2, 3, 9, 12), random_boxes(7, 60)
    given = torch.cat((given, torch.tensor([[50.0, 30.0, 49.0, 29.0], [-40.0, -9.0, 90.0, 80.0]])))
    owners = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 0])
    found = boxes.aligned(features, given, owners, 0.25, (2, 3), sampling)
    for box, owner, mine in zip(given * 0.25, owners, found, strict=True):
        left, top, right, bottom = box.tolist()
        wide, high = max(right - left, 1.0) / 3, max(bottom - top, 1.0) / 2
        across, down = (sampling, sampling) if sampling else (math.ceil(wide), math.ceil(high))
        for row in range(2):
            for column in range(3):
                rows = [top + (row + (at + 0.5) / down) * high for at in range(down)]
                columns = [left + (column + (at + 0.5) / across) * wide for at in range(across)]
                read = [between(features[owner], y, x) for y in rows for x in columns]
                torch.testing.assert_close(mine[:, row, column], torch.stack(read).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 300, 1200])
def test_of_those_that_overlap_the_best_of_its_group_is_kept(count: int) -> None:
    torch.manual_seed(2)
    given, scores, groups = random_boxes(count, 50), torch.rand(count), torch.randint(3, (count,))
    given[::9, 2:] = given[::9, :2]  # some without an area
    kept: list[int] = []
    for at in scores.argsort(descending=True).tolist():
        alike = [each for each in kept if groups[each] == groups[at]]
        if not any(overlap(given[at].tolist(), given[each].tolist()) > 0.5 for each in alike):
            kept.append(at)
    assert boxes.suppressed(given, scores, groups, 0.5, 10_000).tolist() == kept
    assert boxes.suppressed(given, scores, groups, 0.5, 5).tolist() == kept[:5]


def overlap(one: list[float], other: list[float]) -> float:
    wide, high = (min(one[2 + at], other[2 + at]) - max(one[at], other[at]) for at in (0, 1))
    both = max(wide, 0.0) * max(high, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both
    return both / areas if areas > 0 else 0.0


def test_a_mask_lies_where_its_box_is() -> None:
    found = rcnn._pasted(torch.ones(1, 1, 28, 28), torch.tensor([[10.0, 5.0, 30.0, 25.0]]), (40, 50))
    assert found.shape == (1, 1, 40, 50)
    assert (found[0, 0, 7:24, 12:29] > 0.999).all()
    found[0, 0, 3:28, 8:33] = 0
    assert not found.any()


class BoxCoder:
    def __init__(self, weights: tuple[float, ...]) -> None:
        self.weights, self.bbox_xform_clip = weights, math.log(1000 / 16)


class Matcher:
    """For training: of no use, and not known."""


class GeneralizedRCNNTransform(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.min_size, self.max_size, self.size_divisible, self.fixed_size = (64,), 96, 32, None
        self.image_mean, self.image_std, self._skip_resize = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25], False


class AnchorGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.aspect_ratios, self.cell_anchors = ((16, 32),), ((0.5, 1.0),), None


class RPNHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.cls_logits, self.bbox_pred = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 16, 1),
        )


class RegionProposalNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.anchor_generator, self.head, self.box_coder = AnchorGenerator(), RPNHead(), BoxCoder((1.0, 1.0, 1.0, 1.0))
        self._pre_nms_top_n = self._post_nms_top_n = {"training": 9, "testing": 20}
        self.nms_thresh, self.score_thresh, self.min_size, self.proposal_matcher = 0.7, 0.0, 1e-3, Matcher()


class MultiScaleRoIAlign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.featmap_names, self.sampling_ratio, self.output_size, self.scales = ["0"], 2, (3, 3), None


class TwoMLPHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(36, 8), nn.Linear(8, 8)


class FastRCNNPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(8, 3), nn.Linear(8, 12)


class RoIHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.box_roi_pool, self.box_head, self.box_predictor = MultiScaleRoIAlign(), TwoMLPHead(), FastRCNNPredictor()
        self.box_coder, self.fg_bg_sampler = BoxCoder((10.0, 10.0, 5.0, 5.0)), Matcher()
        self.score_thresh, self.nms_thresh, self.detections_per_img = 0.05, 0.5, 7
        self.mask_predictor = self.keypoint_predictor = None


class FasterRCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transform, self.backbone = GeneralizedRCNNTransform(), nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU())
        self.rpn, self.roi_heads = RegionProposalNetwork(), RoIHeads()


PACKAGE = "torchvision.models.detection"
STAND_INS = StandIns(
    {
        f"{PACKAGE}._utils": (BoxCoder, Matcher),
        f"{PACKAGE}.transform": (GeneralizedRCNNTransform,),
        f"{PACKAGE}.anchor_utils": (AnchorGenerator,),
        f"{PACKAGE}.rpn": (RPNHead, RegionProposalNetwork),
        f"{PACKAGE}.roi_heads": (RoIHeads,),
        f"{PACKAGE}.faster_rcnn": (TwoMLPHead, FastRCNNPredictor, FasterRCNN),
        "torchvision.ops.poolers": (MultiScaleRoIAlign,),
    }
)


@pytest.fixture(autouse=True)
def _in_their_packages() -> Iterator[None]:
    STAND_INS.put()
    yield
    STAND_INS.forget()


def saved(path: Path, change: dict[str, Any]) -> Path:
    torch.manual_seed(4)
    return STAND_INS.saved(changed(FasterRCNN(), change), path)


def test_a_detector_finds_boxes_in_the_pictures_own_pixels(tmp_path: Path) -> None:
    served = pipeline.load_model(Settings.load(saved(tmp_path / "model.pt", {})))
    assert served.report.architecture == f"{PACKAGE}.faster_rcnn.FasterRCNN"
    pictures = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        both = served.module(pictures)
        for each, picture in zip(both, pictures, strict=True):
            (alone,) = served.module(picture[None])
            for name, value in each.items():
                torch.testing.assert_close(value, alone[name])
            assert 0 < len(each["boxes"]) <= 7
            assert (each["boxes"].amax(0) <= torch.tensor([50.001, 40.001, 50.001, 40.001])).all()
            assert (each["scores"][:-1] >= each["scores"][1:]).all()
            assert set(each["labels"].tolist()) <= {1, 2}


def test_a_second_look_is_at_what_was_proposed(tmp_path: Path) -> None:
    """With codes of nothing, a box is an anchor that was proposed, scaled back."""
    net = rebuilt(saved(tmp_path / "model.pt", {}))
    for part in (net.rpn.head.bbox_pred, net.roi_heads.box_predictor.bbox_pred):  # type: ignore[union-attr]
        part.weight.zero_(), part.bias.zero_()  # type: ignore[union-attr, operator]
    with torch.inference_mode():
        (found,) = net(torch.rand(1, 3, 64, 64))
    anchors = net.rpn.anchor_generator(torch.Size((1, 3, 64, 64)), [torch.zeros(1, 4, 8, 8)])[0]  # type: ignore[union-attr, operator]
    anchors = boxes.clipped(anchors, (64, 64))
    for box in found["boxes"]:
        assert (anchors - box).abs().amax(1).min() < 1e-3


def test_codes_are_of_the_box_that_they_belong_to() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    codes = torch.tensor([[1.0, -2.0, 5 * math.log(2), 0.0]])  # a tenth to the right, two tenths up, twice as wide
    found = OurCoder((10.0, 10.0, 5.0, 5.0), 4.0).decode(codes, box)
    torch.testing.assert_close(found, torch.tensor([[[2.0, 12.0, 42.0, 52.0]]]))


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        ({"transform.min_size": (10**9,)}, "min_size"),
        ({"transform.max_size": "large"}, "min_size"),
        ({"rpn.box_coder": Matcher()}, "Matcher"),
        ({"rpn.box_coder": None}, "box_coder"),
        ({"roi_heads.detections_per_img": 2.5}, "box_coder"),
        ({"roi_heads.box_roi_pool.output_size": (3, 10**6)}, "output_size"),
        ({"roi_heads.track_predictor": nn.Linear(2, 2)}, "track_predictor"),
        ({"rpn.anchor_generator.sizes": ((16,), (32,))}, "sizes"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_computes_otherwise_is_not_served(tmp_path: Path, change: dict[str, Any], odd: str) -> None:
    with pytest.raises(NotPlain, match=odd):
        rebuilt(saved(tmp_path / "odd.pt", change))
