"""YOLO networks from their pickled structure, without the library that made them.

The stand-ins below have the names and parts that the library's classes have, and compute by themselves. The library
itself is compared with in test_yolo_library.py.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import score
from score.architectures import torch_layers
from score.architectures.yolo import network, suppression
from score.architectures.yolo.suppression import Limits
from score.errors import ClassNotImportable, InvalidSetting
from score.formats import registry
from score.weights import select
from tests.architectures.stand_ins import StandIns, normalised


class Conv(nn.Module):
    def __init__(self, one: int, two: int, size: int = 1, step: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(one, two, size, step, size // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(two, eps=1e-3), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(width, width, 3), Conv(width, width, 3), True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self, one: int, two: int) -> None:
        super().__init__()
        self.c = two // 2
        self.cv1, self.cv2, self.m = Conv(one, two), Conv(3 * self.c, two), nn.ModuleList([Bottleneck(self.c)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv1(x)
        second = y[:, self.c :]
        return self.cv2(torch.cat([y[:, : self.c], second, self.m[0](second)], 1))


class SPPF(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(width, width // 2), Conv(2 * width, width), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.cv1(x)
        pools = [F.max_pool2d(a, size, 1, size // 2) for size in (5, 9, 13)]  # what repeating a window of 5 amounts to
        return self.cv2(torch.cat([a, *pools], 1))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d = 1

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(x, self.d)


class DFL(nn.Module):
    def __init__(self, bins: int) -> None:
        super().__init__()
        self.conv, self.c1 = nn.Conv2d(bins, 1, 1, bias=False), bins
        self.conv.weight.data = torch.arange(float(bins)).view(1, bins, 1, 1)


class Detect(nn.Module):
    def __init__(self, classes: int, widths: list[int]) -> None:
        super().__init__()
        self.nc, self.nl, self.reg_max, self.no = classes, len(widths), 16, classes + 64
        self.stride = torch.tensor([8.0, 16.0])
        self.cv2 = nn.ModuleList(nn.Sequential(Conv(w, 16, 3), nn.Conv2d(16, 64, 1)) for w in widths)
        self.cv3 = nn.ModuleList(nn.Sequential(Conv(w, 16, 3), nn.Conv2d(16, classes, 1)) for w in widths)
        self.dfl = DFL(16)

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        """Rows of (x, y, x, y, a score a class), place by place."""
        rows = []
        for found, box, kind, stride in zip(x, self.cv2, self.cv3, self.stride.tolist(), strict=True):
            distances, scores = box(found), kind(found).sigmoid()
            for down in range(found.shape[2]):
                for across in range(found.shape[3]):
                    shares = distances[:, :, down, across].view(-1, 4, 16).softmax(2)
                    left, top, right, bottom = (shares @ torch.arange(16.0)).unbind(1)
                    x0, y0 = across + 0.5, down + 0.5
                    corners = torch.stack((x0 - left, y0 - top, x0 + right, y0 + bottom), 1) * stride
                    rows.append(torch.cat((corners, scores[:, :, down, across]), 1))
        return torch.stack(rows, 1)


class DetectionModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[tuple[Any, nn.Module]] = [
            (-1, Conv(3, 8, 3, 2)), (-1, Conv(8, 16, 3, 2)), (-1, Conv(16, 16, 3, 2)), (-1, C2f(16, 16)),
            (-1, Conv(16, 32, 3, 2)), (-1, SPPF(32)), (-1, nn.Upsample(scale_factor=2)), ([-1, 3], Concat()),
            (-1, C2f(48, 16)), ([8, 5], Detect(3, [16, 32])),
        ]  # fmt: skip
        for at, (origin, layer) in enumerate(layers):
            layer.i, layer.f, layer.np = at, origin, 1  # type: ignore[assignment]
        self.model = nn.Sequential(*(layer for _, layer in layers))
        self.save, self.yaml, self.inplace = [3, 5, 8], {"nc": 3}, True
        self.names = {0: "cat", 1: "dog", 2: "bird"}
        self.stride, self.args = torch.tensor([8.0, 16.0]), {"imgsz": 96, "task": "detect"}

    def forward(self, x: Any) -> torch.Tensor:
        given: list[Any] = []
        for layer in self.model:
            if isinstance(layer.f, list):
                x = [x if at == -1 else given[at] for at in layer.f]
            x = layer(x)
            given.append(x)
        return x


STAND_INS = StandIns(
    {
        "ultralytics.nn.modules.conv": (Conv, Concat),
        "ultralytics.nn.modules.block": (Bottleneck, C2f, SPPF, DFL),
        "ultralytics.nn.modules.head": (Detect,),
        "ultralytics.nn.tasks": (DetectionModel,),
    }
)


@pytest.fixture(autouse=True)
def _in_their_packages() -> Iterator[None]:
    """The stand-ins under the library's names, for as long as they are pickled; nothing else sees them."""
    STAND_INS.put()
    yield
    STAND_INS.forget()


def made(seed: int = 0) -> DetectionModel:
    torch.manual_seed(seed)
    model = DetectionModel().eval()
    normalised(model)
    for branch in model.model[-1].cv3:  # type: ignore[union-attr]
        branch[-1].weight.data.normal_(0, 1.5)
    return model


def saved(path: Path, model: nn.Module, **more: Any) -> Path:
    return STAND_INS.saved({"model": model, "ema": None, "epoch": -1, **more}, path)


def rebuilt(path: Path) -> network.Network:
    weights = select.weights_of(registry.open_checkpoint(path))
    assert weights is not None
    assert weights.module is not None
    module = torch_layers.rebuild(weights.module)
    assert isinstance(module, network.Network)
    return network.ready(module, weights.module, {}).eval()


@torch.no_grad()
def test_it_computes_what_its_blocks_compute(tmp_path: Path) -> None:
    model = made()
    images = torch.rand(2, 3, 96, 64)
    wanted = model(images)
    found = rebuilt(saved(tmp_path / "best.pt", model)).graph(images)
    assert torch.allclose(found.boxes.transpose(1, 2), wanted[..., :4], atol=1e-4)
    assert torch.allclose(found.scores.transpose(1, 2), wanted[..., 4:], atol=1e-6)


@torch.no_grad()
def test_half_precision_is_computed_in_single_as_the_library_does(tmp_path: Path) -> None:
    half = made().half()
    images = torch.rand(1, 3, 64, 64)
    wanted = made().load_state_dict(half.float().state_dict()) and half.float()(images)
    found = rebuilt(saved(tmp_path / "best.pt", half.half()))
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert torch.allclose(found.graph(images).scores.transpose(1, 2), wanted[..., 4:], atol=1e-5)


@torch.no_grad()
def test_folded_normalisation_is_the_same_network(tmp_path: Path) -> None:
    model = made()
    images = torch.rand(1, 3, 64, 64)
    wanted = model(images)
    for part in model.modules():
        if isinstance(part, Conv):
            part.conv = nn.utils.fuse_conv_bn_eval(part.conv, part.bn)
            del part.bn
    found = rebuilt(saved(tmp_path / "best.pt", model)).graph(images)
    assert torch.allclose(found.scores.transpose(1, 2), wanted[..., 4:], atol=1e-5)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_gives_boxes_in_its_own_pixels_with_names(tmp_path: Path) -> None:
    model = made()
    pixels = (np.random.default_rng(0).random((96, 64, 3)) * 255).astype(np.uint8)
    with torch.no_grad():
        raw = model(torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None])[0]
    predictor = score.Predictor(saved(tmp_path / "best.pt", model), architecture_kwargs={"confidence": 0.4})
    (row,) = predictor(_png(pixels)).rows
    assert set(row) == {"boxes", "scores", "labels", "label_names"}
    assert 0 < len(row["scores"]) <= 300
    assert (row["scores"] > 0.4).all()
    assert (np.diff(row["scores"]) <= 0).all()
    assert (row["boxes"] >= 0).all()
    assert (row["boxes"] <= [64, 96, 64, 96]).all()
    names = np.array(["cat", "dog", "bird"])
    assert (row["label_names"] == names[row["labels"]]).all()
    best = raw[:, 4:].max()
    assert row["scores"][0] == pytest.approx(float(best), abs=1e-5)


def test_a_picture_of_another_size_gives_the_same_boxes_scaled(tmp_path: Path) -> None:
    smooth = Image.fromarray((np.random.default_rng(1).random((6, 4, 3)) * 255).astype(np.uint8))
    path = saved(tmp_path / "best.pt", made())
    predictor = score.Predictor(path, architecture_kwargs={"confidence": 0.3})
    one, two = (
        predictor(_png(np.asarray(smooth.resize((64 * times, 96 * times), Image.Resampling.BICUBIC)))).rows[0]
        for times in (1, 3)
    )
    assert np.allclose(one["boxes"][0] * 3, two["boxes"][0], atol=6)
    assert one["labels"][0] == two["labels"][0]
    assert one["scores"][0] == pytest.approx(two["scores"][0], abs=0.03)


def test_what_is_found_does_not_depend_on_the_other_rows(tmp_path: Path) -> None:
    module = rebuilt(saved(tmp_path / "best.pt", made()))
    images = torch.rand(3, 3, 70, 90)
    with torch.no_grad():
        together = module(images)
        for row in range(3):
            (alone,) = module(images[row : row + 1])
            for name, value in alone.items():
                assert torch.allclose(value, together[row][name], atol=1e-4)


@pytest.mark.parametrize(
    "kwargs",
    [{"confidence": 0}, {"confidence": "high"}, {"size": 0.5}, {"size": 10**6}, {"nms": 1}, {"num_classes": 3}],
)
def test_settings_that_it_does_not_take_are_refused(kwargs: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt", made())
    with pytest.raises(InvalidSetting, match=next(iter(kwargs))):
        score.load(path, architecture_kwargs=kwargs)


# a file may say anything


def test_a_block_of_the_same_name_with_other_parts_is_not_taken_for_it(tmp_path: Path) -> None:
    model = made()
    model.model[0].more = nn.Linear(2, 2)  # type: ignore[union-attr]
    with pytest.raises(ClassNotImportable, match="DetectionModel") as caught:
        score.load(saved(tmp_path / "best.pt", model))
    assert "of another kind" in caught.value.detail
    assert "more" in caught.value.detail


def test_a_block_that_is_not_known_is_named(tmp_path: Path) -> None:
    module = sys.modules["ultralytics.nn.modules.conv"]
    strange = type("Strange", (nn.Identity,), {"__module__": module.__name__})
    module.Strange = strange  # type: ignore[attr-defined]
    model = made()
    model.model[0].act = strange()  # type: ignore[union-attr]
    with pytest.raises(ClassNotImportable) as caught:
        score.load(saved(tmp_path / "best.pt", model))
    assert "ultralytics.nn.modules.conv.Strange" in caught.value.detail


def test_a_graph_that_leads_nowhere_answers_nothing(tmp_path: Path) -> None:
    model = made()
    model.model[7].f = [-1, 99]  # type: ignore[union-attr]
    module = rebuilt(saved(tmp_path / "best.pt", model))
    with pytest.raises(IndexError):
        module(torch.rand(1, 3, 64, 64))


# suppression


def test_of_boxes_of_one_thing_the_best_is_kept() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 5, 5]]).float()
    scores = torch.tensor([[0.9, 0], [0.8, 0], [0, 0.7], [0.6, 0], [0.1, 0]])
    places, found, classes = suppression.kept(boxes, scores, None, Limits(overlap=0.5), unique=False)
    assert places.tolist() == [0, 2, 3]  # another class is another thing
    assert classes.tolist() == [0, 1, 0]
    assert found.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert len(suppression.kept(boxes, scores, None, Limits(most=2), unique=False)[0]) == 2
    assert suppression.kept(boxes, scores, None, Limits(confidence=0.99), unique=False)[0].tolist() == []


def test_suppression_is_that_of_its_definition() -> None:
    torch.manual_seed(5)
    middle, size = torch.rand(200, 2) * 100, torch.rand(200, 2) * 60 + 5
    boxes, scores = torch.cat((middle - size / 2, middle + size / 2), 1), torch.rand(200, 3)
    places, *_ = suppression.kept(boxes, scores, None, Limits(overlap=0.4), unique=False)
    best, classes = scores.max(1)
    wanted: list[int] = []
    for at in best.argsort(descending=True).tolist():
        if best[at] > 0.25 and all(classes[at] != classes[k] or _overlap(boxes[at], boxes[k]) <= 0.4 for k in wanted):
            wanted.append(at)
    assert places.tolist() == wanted


def _overlap(one: torch.Tensor, two: torch.Tensor) -> float:
    wide = (min(one[2], two[2]) - max(one[0], two[0])).clamp(min=0)  # type: ignore[union-attr]
    high = (min(one[3], two[3]) - max(one[1], two[1])).clamp(min=0)  # type: ignore[union-attr]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return float(wide * high / (sum(areas) - wide * high))
