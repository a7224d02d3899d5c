"""YOLO networks as the libraries that made them compute them: every network that these build, with random weights.

`make test-yolo` installs the libraries beside, into build/yolo: they are under the AGPL and are read by nothing else.
torchvision, which they import, is stood in for.
"""

import importlib.metadata
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score.architectures.yolo import suppression
from score.architectures.yolo.heads import Raw
from score.architectures.yolo.suppression import Limits
from tests.architectures.test_yolo import rebuilt

pytestmark = pytest.mark.yolo
LIBRARY = Path(__file__).parents[2] / "build" / "yolo"
NAMES = [
    *("yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "yolov8-p2", "yolov8-p6", "yolov8-ghost"),
    *("yolo11n", "yolo11n-seg", "yolo11n-pose", "yolo11n-obb", "yolo11n-cls", "yolo12n", "yolo12n-seg", "yolo12n-cls"),
    *("yolov10n", "yolov10s", "yolov10b", "yolov9t", "yolov9s", "yolov9c", "yolov9e", "yolov9c-seg"),
    *("yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolo26n-cls", "yolo26-p2"),
    *("yolov5n", "yolov5-p6", "yolov3", "yolov3-spp", "yolov3-tiny", "yolov6", "yolov8-cls-resnet50"),
]


@pytest.fixture(scope="module")
def library() -> Any:
    if not (LIBRARY / "ultralytics").is_dir():
        pytest.skip("make test-yolo installs the library")
    torchvision, version = types.ModuleType("torchvision"), importlib.metadata.version
    torchvision.__version__ = "0.28.0"  # type: ignore[attr-defined]
    for name in ("ops", "transforms"):
        setattr(torchvision, name, types.ModuleType(f"torchvision.{name}"))
    sys.modules["torchvision"] = torchvision
    importlib.metadata.version = lambda name: "0.28.0" if name == "torchvision" else version(name)
    sys.path.insert(0, str(LIBRARY))
    from ultralytics.nn import tasks

    return tasks


def build(tasks: Any, name: str) -> Any:
    kinds = {
        "seg": tasks.SegmentationModel,
        "pose": tasks.PoseModel,
        "obb": tasks.OBBModel,
        "cls": tasks.ClassificationModel,
    }
    cls = next((kind for part, kind in kinds.items() if f"-{part}" in name), tasks.DetectionModel)
    file = name
    for family in ("yolov8", "yolo11", "yolo12", "yolo26", "yolov5"):
        file = file.replace(f"{family}n", family)
    (found,) = (LIBRARY / "ultralytics" / "cfg" / "models").rglob(f"{file}.yaml")
    torch.manual_seed(0)
    return varied(cls(str(found.with_name(f"{name}.yaml")), verbose=False))


def varied(model: nn.Module) -> nn.Module:
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.normal_(part.weight, 1, 0.1)
            nn.init.normal_(part.bias, 0, 0.1)
    return model.eval()


def _as_theirs(raw: Raw) -> torch.Tensor:
    """[N, 4 + classes + more, A], boxes as middle and size."""
    one, two = raw.boxes.chunk(2, 1)
    boxes = raw.boxes if raw.angles is not None else torch.cat(((one + two) / 2, two - one), 1)
    points = None if raw.keypoints is None else raw.keypoints.permute(0, 2, 3, 1).flatten(1, 2)
    more = [each for each in (raw.angles, points, raw.coefficients) if each is not None]
    return torch.cat((boxes, raw.scores, *more), 1)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_network_computes_what_the_library_computes(library: Any, name: str, tmp_path: Path) -> None:
    model = build(library, name)
    images = torch.rand(2, 3, 128, 192)
    theirs = model(images)
    torch.save({"model": model}, tmp_path / "best.pt")
    ours = rebuilt(tmp_path / "best.pt").graph(images)
    if isinstance(ours, torch.Tensor):
        assert torch.allclose(ours, theirs[0] if isinstance(theirs, tuple) else theirs, atol=1e-6)
        return
    found = theirs[0]
    if ours.prototypes is not None:
        found, prototypes = found
        assert torch.allclose(ours.prototypes, prototypes, atol=1e-5)
    assert torch.allclose(_as_theirs(ours), found, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_suppression_is_the_librarys(library: Any, rotated: bool, overlap: float) -> None:
    from ultralytics.utils import nms

    assert library
    sys.modules["torchvision"].ops.nms = nms.TorchNMS.nms
    for seed in range(5):
        torch.manual_seed(seed)
        middle, size, scores = torch.rand(2, 500) * 300, torch.rand(2, 500) * 90 + 20, torch.rand(4, 500) ** 2
        angles = (torch.rand(1, 500) - 0.25) * np.pi
        given = torch.cat((middle, size, scores, *([angles] if rotated else [])))[None]
        theirs = nms.non_max_suppression(given, 0.25, overlap, nc=4, rotated=rotated)[0]
        boxes = torch.cat((middle, size) if rotated else (middle - size / 2, middle + size / 2)).t()
        limits = Limits(overlap=overlap)
        places, found, classes = suppression.kept(
            boxes, scores.t(), angles[0] if rotated else None, limits, unique=False
        )
        assert torch.equal(theirs[:, 4], found)
        assert torch.equal(theirs[:, 5].long(), classes)
        assert torch.allclose(theirs[:, :4], boxes[places], atol=1e-4)
