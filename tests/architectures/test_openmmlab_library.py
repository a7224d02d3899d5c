"""Pickled networks of OpenMMLab: rebuilt, they compute what the libraries do.

`make test-openmmlab` installs the libraries beside, into build/openmmlab.
"""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.architectures.beside_openmmlab import openmmlab
from tests.architectures.openmmlab_configs import CLASSIFIERS, DETECTORS, SEGMENTORS, Config
from tests.architectures.stand_ins import normalised
from tests.architectures.test_torchvision_blocks import rebuilt

pytestmark = pytest.mark.openmmlab
Build = Callable[[str, Config], nn.Module]
# How much smaller a detector's layers are made, for scores and boxes that are neither all alike nor endless.
SMALLER = {"yolox": {"stem": 0.004, "conv_reg": 0.02}, "retinanet": {"retina_": 0.004, "retina_cls": 0.1}}
LARGER = {"faster_rcnn": 8.0, "mask_rcnn": 8.0, "cascade_rcnn": 8.0, "atss": 8.0, "fcos": 8.0, "retinanet": 8.0}


@pytest.fixture(scope="module")
def libraries() -> Iterator[None]:
    with openmmlab():
        yield


@pytest.fixture
def build(libraries: None) -> Build:
    """A network from its configuration, in evaluation, with norms that have seen something."""

    def built(package: str, config: Config) -> nn.Module:
        registry, configs = (importlib.import_module(f"mmengine.{name}") for name in ("registry", "config"))
        registry.DefaultScope.get_instance(f"{package}{id(config)}", scope_name=package)
        torch.manual_seed(0)
        models = importlib.import_module(f"{package}.registry").MODELS
        net: nn.Module = models.build(configs.ConfigDict(config)).eval().requires_grad_(False)
        return normalised(net)

    return built


def saved(net: nn.Module, path: Path) -> nn.Module:
    torch.save(net, path)
    return rebuilt(path)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_answers_as_mmpretrain_does(name: str, build: Build, tmp_path: Path) -> None:
    net = build("mmpretrain", CLASSIFIERS[name])
    pictures = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(saved(net, tmp_path / "model.pt")(pictures), net(pictures), rtol=0, atol=0)


@pytest.mark.parametrize("name", SEGMENTORS)
def test_a_segmentor_answers_as_mmsegmentation_does(name: str, build: Build, tmp_path: Path) -> None:
    net: Any = build("mmseg", SEGMENTORS[name])
    pictures = torch.rand(2, 3, 96, 128)
    size = pictures.shape[2:]
    with torch.inference_mode():
        wanted = net.inference(pictures, [{"ori_shape": size, "img_shape": size, "pad_shape": size}] * 2)
        found = saved(net, tmp_path / "model.pt")(pictures)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def spread(net: nn.Module, name: str) -> None:
    """Have a detector with random weights find boxes of all classes."""
    for key, value in net.named_parameters():
        if value.dim() > 1 and "cls" in key:
            value *= LARGER.get(name, 1.3)
        if value.dim() > 1 and "reg" in key and name not in SMALLER:
            value *= 2.0
        if key.endswith("cls.bias"):
            value.zero_()
        for part, factor in SMALLER.get(name, {}).items():
            if value.dim() > 1 and part in key:
                value *= factor


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_finds_what_mmdetection_does(name: str, build: Build, tmp_path: Path) -> None:
    net: Any = build("mmdet", DETECTORS[name])
    spread(net, name)
    net.dataset_meta = {"classes": ("a", "b", "c", "d", "e")}
    pictures = torch.randint(0, 256, (2, 3, 150, 200), dtype=torch.uint8)
    said = {"img_shape": (150, 200), "ori_shape": (150, 200), "scale_factor": (1.0, 1.0), "pad_shape": (160, 224)}
    sample = importlib.import_module("mmdet.structures").DetDataSample
    with torch.inference_mode():
        given = {
            "inputs": [each.flip(0) for each in pictures],
            "data_samples": [sample(metainfo=said) for _ in range(2)],
        }
        wanted = [each.pred_instances for each in net.test_step(given)]
        again: Any = saved(net, tmp_path / "model.pt")
        found = again(pictures.float() / 255)
    assert again.labels == ("a", "b", "c", "d", "e")
    for ours, theirs in zip(found, wanted, strict=True):
        assert len(theirs.bboxes) > 5
        assert len(set(theirs.scores.tolist())) > 5
        torch.testing.assert_close(ours["boxes"], theirs.bboxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ours["scores"], theirs.scores, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours["labels"], theirs.labels)
        if "masks" in theirs:
            assert 0 < theirs.masks.float().mean() < 1
            assert (ours["masks"] != theirs.masks).float().mean() < 1e-4
