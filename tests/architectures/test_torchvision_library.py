"""Pickled networks of torchvision's own, of every family: rebuilt, they compute what torchvision computes.

`make test-blocks` installs torchvision beside, into build/torchvision.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

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
