"""Pickled networks of torchvision's own, of every family: rebuilt, they compute what torchvision computes.

`make test-blocks` installs torchvision beside, into build/torchvision.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.architectures import beside
from tests.architectures.stand_ins import normalised
from tests.architectures.test_torchvision_blocks import rebuilt

pytestmark = pytest.mark.torchvision
NAMES = (
    *("alexnet", "convnext_tiny", "convnext_small", "densenet121", "densenet161", "densenet169", "densenet201"),
    *("efficientnet_b0", "efficientnet_b3", "efficientnet_b5", "efficientnet_v2_s", "efficientnet_v2_m"),
    *("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v2", "mobilenet_v3_large"),
    *("mobilenet_v3_small", "regnet_x_400mf", "regnet_x_3_2gf", "regnet_y_400mf", "regnet_y_3_2gf", "resnet18"),
    *("resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
    *("shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "squeezenet1_0", "squeezenet1_1", "vgg11", "vgg11_bn", "vgg13"),
    *("vgg16_bn", "vit_b_16", "vit_b_32", "googlenet", "inception_v3"),
)


DETECTORS = (
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"),
    *("maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
    *("fcos_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"),
)
MASKS = ("deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large")


@pytest.fixture
def library() -> Iterator[Any]:
    with beside.torchvision():
        import torchvision.models

        yield torchvision.models


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_torchvision_does(tmp_path: Path, library: Any, name: str) -> None:
    torch.manual_seed(3)
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = library.get_model(name, weights=None, num_classes=7, **extra).eval()
    normalised(net)
    torch.save(net, tmp_path / "net.pt")
    pixels = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        wanted = net(pixels)
        beside.forget("torchvision")
        torch.testing.assert_close(rebuilt(tmp_path / "net.pt")(pixels), wanted, rtol=0, atol=0)


def _sure(net: nn.Module) -> nn.Module:
    """A detector of random weights that finds things, and not all with the same score."""
    for name, value in net.named_parameters():
        if name.endswith("weight") and ("cls_score" in name or "cls_logits" in name or "bbox" in name):
            value.data.mul_(20 if "cls_score" in name else 1.5)
        elif name.endswith("cls_logits.bias"):
            value.data.zero_()
    return net


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", DETECTORS)
def test_it_finds_what_torchvision_does(tmp_path: Path, library: Any, name: str, frozen: bool) -> None:
    if frozen and "resnet50_fpn" not in name:
        pytest.skip("frozen layers are of these")
    from torchvision.ops.misc import FrozenBatchNorm2d

    torch.manual_seed(3)
    made_with = {"norm_layer": FrozenBatchNorm2d} if frozen else {}
    classes = 2 if "keypoint" in name else 5
    net = getattr(library.detection, name)(weights=None, weights_backbone=None, num_classes=classes, **made_with)
    _sure(net).eval()
    normalised(net)
    if net.transform.fixed_size is None:
        net.transform.min_size, net.transform.max_size = (200,), 333
    torch.save(net, tmp_path / "net.pt")
    pixels = torch.rand(2, 3, 120, 160)
    with torch.inference_mode():
        wanted = net(list(pixels))
        beside.forget("torchvision")
        found = rebuilt(tmp_path / "net.pt")(pixels)
    assert sum(len(each["boxes"]) for each in wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-4)
        for kind in one.keys() - {"scores"}:  # those of nearly the same score may have changed places
            assert one[kind].shape == other[kind].shape
            mine, theirs = (each[kind].float().reshape(len(each[kind]), -1) for each in (one, other))
            apart = (mine[:, None] - theirs[None]).abs().amax(-1)
            assert not len(apart) or apart.amin(1).max() < 2e-2


@pytest.mark.parametrize("name", MASKS)
def test_its_masks_are_torchvisions(tmp_path: Path, library: Any, name: str) -> None:
    torch.manual_seed(3)
    aux = {} if name.startswith("lraspp") else {"aux_loss": True}
    net = getattr(library.segmentation, name)(weights=None, weights_backbone=None, num_classes=5, **aux).eval()
    normalised(net)
    torch.save(net, tmp_path / "net.pt")
    pixels = torch.rand(2, 3, 96, 128)
    with torch.inference_mode():
        wanted = net(pixels)
        beside.forget("torchvision")
        found = rebuilt(tmp_path / "net.pt")(pixels)
    assert found.keys() == wanted.keys()
    for kind, value in wanted.items():
        torch.testing.assert_close(found[kind], value, rtol=0, atol=0)
