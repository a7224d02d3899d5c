"""timm's config.json: what the model is made with, and what its images become. Against timm itself, behind
`make test-torchvision`: tests/torchvision/test_timm_folders.py."""

from typing import Any

import numpy as np
import pytest

from score.architectures.timm_config import label_names, parsed
from score.errors import ArchitectureBroken
from score.inference.preprocess.images import from_timm

# As timm 1.0.31 saved a model of its own.
SAVED: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224", "num_classes": 3, "num_features": 192, "global_pool": "avg",
    "model_args": {"num_classes": 3, "global_pool": "avg", "img_size": [64, 64], "class_token": False, "in_chans": 3},
    "label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "tench"},
    "pretrained_cfg": {
        "tag": "", "custom_load": False, "input_size": [3, 64, 64], "fixed_input_size": True, "crop_pct": 0.9,
        "interpolation": "bicubic", "crop_mode": "center", "mean": [0.5] * 3, "std": [0.25] * 3, "num_classes": 21843,
        "url": "http://127.0.0.1:1/x", "file": "/etc/passwd", "hf_hub_id": "someone/else",
    },
}  # fmt: skip
# As older versions did: one object.
FLAT = {"architecture": "resnet18", "num_classes": 5, "global_pool": "max", "input_size": [3, 96, 96], "crop_pct": 0.5,
        "mean": [0.1] * 3, "std": [0.2] * 3, "interpolation": "bilinear", "labels": ["a"]}  # fmt: skip


def test_what_a_model_is_made_with_and_what_describes_it() -> None:
    described, made_with = parsed(SAVED)
    assert made_with == SAVED["model_args"]
    assert described["num_classes"] == 3
    assert described["mean"] == [0.5] * 3
    assert not {"url", "file", "hf_hub_id", "custom_load"} & described.keys()
    assert label_names(SAVED) == ("tench", "n2", "n3")


def test_older_files_say_it_in_one_object() -> None:
    described, made_with = parsed(FLAT)
    assert made_with == {"num_classes": 5, "global_pool": "max"}
    recipe = from_timm(described)
    assert (recipe.resize, recipe.crop, recipe.interpolation, recipe.mean) == (192, (96, 96), "bilinear", (0.1,) * 3)


@pytest.mark.parametrize(
    "given",
    [
        {"checkpoint_path": "x.pth"},
        {"pretrained": True},
        {"cache_dir": "x"},
        {"act_layer": "../x"},
        {"norm_layer": {"a/b": 1}},
        {"weights": "http://127.0.0.1"},
    ],
)
def test_a_configuration_opens_and_fetches_nothing(given: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureBroken, match="not an argument of numbers and words"):
        parsed({**SAVED, "model_args": given})


@pytest.mark.parametrize(
    ("mode", "size", "resized"),
    [
        ("center", (64, 64), (80, 160)),
        ("squash", (64, 64), (80, 80)),
        ("border", (64, 64), (40, 80)),
        ("center", (32, 64), (40, 80)),
        ("squash", (32, 64), (40, 80)),
        ("border", (32, 16), (10, 20)),
    ],
)
def test_images_are_cropped_as_timm_crops(mode: str, size: tuple[int, int], resized: tuple[int, int]) -> None:
    """A picture of 100 x 200, and crop_pct 0.8: what is resized, by timm's own rules, and what its middle shows."""
    from PIL import Image

    recipe = from_timm({"input_size": [3, *size], "crop_pct": 0.8, "crop_mode": mode, "interpolation": "bilinear"})
    pixels = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    found = recipe.apply(pixels)
    assert found.shape == (1, 3, *size)
    small = np.asarray(Image.fromarray(pixels).resize((resized[1], resized[0]), Image.Resampling.BILINEAR), np.float32)
    fill = np.round(np.array(recipe.mean) * 255)
    framed = np.broadcast_to(fill, (max(size[0], resized[0]), max(size[1], resized[1]), 3)).astype(np.float32).copy()
    top, left = (framed.shape[0] - resized[0]) // 2, (framed.shape[1] - resized[1]) // 2
    framed[top : top + resized[0], left : left + resized[1]] = small
    top, left = round((framed.shape[0] - size[0]) / 2), round((framed.shape[1] - size[1]) / 2)
    middle = framed[top : top + size[0], left : left + size[1]]
    wanted = (middle / 255 - np.array(recipe.mean)) / np.array(recipe.std)
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), wanted, atol=1e-4)
