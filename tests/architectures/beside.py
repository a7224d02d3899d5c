"""Libraries that a make target installed into `build/`, imported for as long as a test's files are written.

torchvision comes without its compiled operators, which are of another torch and which no network here needs.
"""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

BUILD = Path(__file__).parents[2] / "build"
_OPERATORS: list[torch.library.Library] = []


@contextmanager
def torchvision() -> Iterator[None]:
    """The package, from build/torchvision; skips the test where it is not there."""
    folder = BUILD / "torchvision" / "torchvision"
    if not folder.is_dir():
        pytest.skip("make test-blocks installs the library")
    package, extension = types.ModuleType("torchvision"), types.ModuleType("torchvision.extension")
    package.__path__, package.__version__ = [str(folder)], "0.28.0"  # type: ignore[attr-defined]
    extension._assert_has_ops = extension._has_ops = lambda: False  # type: ignore[attr-defined]
    extension._load_library = lambda *_: None  # type: ignore[attr-defined]
    package.extension, package._is_tracing = extension, lambda: False  # type: ignore[attr-defined]
    _with_nms()
    sys.modules |= {"torchvision": package, "torchvision.extension": extension}
    yield
    forget("torchvision")


def _with_nms() -> None:
    """torchvision's suppression, which is one of its compiled operators, in Python."""
    if _OPERATORS:
        return
    _OPERATORS.append(torch.library.Library("torchvision", "DEF"))
    _OPERATORS[0].define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _OPERATORS[0].impl("nms", _nms, "CPU")


def _nms(boxes: torch.Tensor, scores: torch.Tensor, overlap: float) -> torch.Tensor:
    areas, gone = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for at in scores.argsort(descending=True, stable=True).tolist():
        if not gone[at]:
            kept.append(at)
            sides = torch.minimum(boxes[at, 2:], boxes[:, 2:]) - torch.maximum(boxes[at, :2], boxes[:, :2])
            both = sides.clamp(min=0).prod(1)
            gone |= both / (areas[at] + areas - both) > overlap
    return torch.tensor(kept, dtype=torch.int64)


@contextmanager
def blocks() -> Iterator[None]:
    """timm and segmentation-models-pytorch, from build/blocks, and the torchvision that they need."""
    if not (BUILD / "blocks" / "timm").is_dir():
        pytest.skip("make test-blocks installs the libraries")
    sys.path.insert(0, str(BUILD / "blocks"))
    with torchvision():
        yield
        forget("timm", "segmentation_models_pytorch")
    sys.path.remove(str(BUILD / "blocks"))


def forget(*libraries: str) -> None:
    """Have nothing of the libraries be imported any more: what is rebuilt has to do without."""
    for name in [name for name in sys.modules if name.partition(".")[0] in libraries]:
        del sys.modules[name]
