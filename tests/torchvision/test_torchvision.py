"""The classes in models/ that have torchvision's names compute what torchvision's do: `make test-torchvision`.

It runs in an environment of its own, since torchvision's wheels need another torch than the server's.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

torchvision = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))

from models.mobilenet_v2 import MobileNetV2  # noqa: E402
from models.resnet import ResNet  # noqa: E402
from models.vgg import VGG  # noqa: E402
from score.inference.preprocess.images import RECIPES  # noqa: E402

NAMES = {
    ResNet: [
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    ],
    VGG: [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")],
    MobileNetV2: ["mobilenet_v2"],
}


@pytest.mark.parametrize(("cls", "name"), [(cls, name) for cls, names in NAMES.items() for name in names])
def test_ours_answers_what_torchvisions_does(cls: Any, name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=11).eval()
    state = theirs.state_dict()
    kwargs = cls.from_shapes({key: tuple(value.shape) for key, value in state.items()})
    ours = cls(**kwargs)
    ours.load_state_dict(state)  # strict: every key of theirs, and no other
    x = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_the_imagenet_recipe_is_torchvisions() -> None:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (300, 400, 3), generator=generator, dtype=torch.uint8).numpy()
    recipe = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    expected = recipe(Image.fromarray(pixels))[None].numpy()
    found = RECIPES["imagenet"].apply(pixels)
    assert found.shape == expected.shape
    assert abs(found - expected).max() < 1e-5
