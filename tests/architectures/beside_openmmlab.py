"""OpenMMLab's packages, which `make test-openmmlab` installed into build/openmmlab, imported piece by piece.

Their own `__init__` files import everything, and so versions of transformers and of compiled operators that are not
here: packages are found without these, and names in whatever file below defines them. mmcv's operators are written in
Python, as far as the networks of the tests call them.
"""

import importlib
import importlib.abc
import importlib.machinery
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.architectures import beside

FOLDER = beside.BUILD / "openmmlab"
PACKAGES = ("mmpretrain", "mmseg", "mmdet")
PARTS = {
    "mmpretrain": ("backbones", "necks", "heads", "losses", "classifiers", "utils/data_preprocessor.py"),
    "mmseg": ("backbones", "necks", "decode_heads", "losses", "segmentors", "data_preprocessor.py"),
    "mmdet": (
        *("backbones", "necks", "dense_heads", "roi_heads", "losses", "detectors", "task_modules", "layers"),
        "data_preprocessors",
    ),
}


class _Package(types.ModuleType):
    """A package without its `__init__`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        defined = re.compile(rf"^ *(class {name}\b|def {name}\b|{name}(:.*)? = )", re.M)
        root = Path(self.__path__[0])
        for file in sorted(root.rglob("*.py")):
            if file.stem != "__init__" and defined.search(file.read_text()):
                path = file.relative_to(root).with_suffix("").as_posix().replace("/", ".")
                return getattr(importlib.import_module(f"{self.__name__}.{path}"), name)
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """A function goes before the file that it is named after."""
        if isinstance(value, types.ModuleType) and callable(value.__dict__.get(name)):
            value = value.__dict__[name]
        super().__setattr__(name, value)


class _Absent(types.ModuleType):
    """What is not installed, with a class under whatever name it is asked for."""

    __path__: list[str] = []  # noqa: RUF012  # as the import system has it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        first = name.partition(".")[0]
        absent = first == "transformers" or name.startswith("mmcv.ops") or name == "mmcv._ext"
        ours = first in PACKAGES and (FOLDER / name.replace(".", "/")).is_dir()
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if absent or ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        if spec.name.partition(".")[0] not in PACKAGES:
            return _Absent(spec.name)
        return _Package(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if isinstance(module, _Package):
            module.__path__ = [str(FOLDER / module.__name__.replace(".", "/"))]


class RoIAlign(nn.Module):
    """mmcv's, as torchvision computes it in Python."""

    def __init__(self, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = 0, **more: Any) -> None:
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.spatial_scale, self.sampling_ratio = float(spatial_scale), sampling_ratio
        self.pool_mode, self.aligned = more.get("pool_mode", "avg"), more.get("aligned", True)

    def forward(self, x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        from torchvision.ops.roi_align import _roi_align

        size = self.output_size
        return _roi_align(x, boxes, self.spatial_scale, *size, self.sampling_ratio, self.aligned)  # type: ignore[no-any-return]


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, config: Mapping[str, Any], _agnostic: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    moved = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    kept = torch.ops.torchvision.nms(moved, scores, config["iou_threshold"])
    return torch.cat([boxes[kept], scores[kept][:, None]], 1), kept


@contextmanager
def openmmlab() -> Iterator[None]:
    """Their registries, filled; skips the test where they are not there."""
    if not (FOLDER / "mmengine").is_dir():
        pytest.skip("make test-openmmlab installs the libraries")
    finder = _Finder()
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "transformers"}
    sys.path.insert(1, str(FOLDER))
    sys.meta_path.insert(0, finder)
    with beside.torchvision():
        try:
            _with_operators()
            _with_versions()
            for package in PACKAGES:
                _register(package, PARTS[package])
            yield
        finally:
            sys.meta_path.remove(finder)
            sys.path.remove(str(FOLDER))
            beside.forget(*PACKAGES, "mmcv", "mmengine", "transformers")
            sys.modules |= before


def _with_operators() -> None:
    for name in ("mmcv.ops", "mmcv.ops.roi_align", "mmcv.ops.nms"):
        module: Any = importlib.import_module(name)
        module.RoIAlign, module.batched_nms = RoIAlign, batched_nms
    RoIAlign.__module__ = "mmcv.ops.roi_align"


def _with_versions() -> None:
    """What mmseg's own `__init__` defines."""
    utils, mmcv, mmseg = (importlib.import_module(name) for name in ("mmengine.utils", "mmcv", "mmseg"))
    mmseg.digit_version = utils.digit_version  # type: ignore[attr-defined]
    mmseg.mmcv_version = tuple(utils.digit_version(mmcv.__version__))  # type: ignore[attr-defined]


def _register(package: str, parts: Sequence[str]) -> None:
    root = FOLDER / package / "models"
    for part in parts:
        for file in sorted((root / part).rglob("*.py")) if (root / part).is_dir() else [root / part]:
            if file.stem != "__init__":
                path = file.relative_to(FOLDER).with_suffix("").as_posix().replace("/", ".")
                with suppress(ImportError, TypeError):  # of what no test builds
                    importlib.import_module(path)
