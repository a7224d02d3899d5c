"""Folders as timm saves them: the model is the one that timm makes, and an image becomes what its transform makes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from score.inference.pipeline import load_model
from score.settings import Settings

timm = pytest.importorskip("timm")

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("resnet18", {"num_classes": 5}),
    ("resnet18", {"num_classes": 7, "global_pool": "max"}),
    ("vit_tiny_patch16_224", {"num_classes": 3, "global_pool": "avg", "img_size": 64, "class_token": False}),
    ("convnext_atto", {"num_classes": 4}),
    ("mobilenetv3_small_050", {"num_classes": 0}),
    ("efficientnet_lite0", {"num_classes": 10}),
]


@pytest.mark.parametrize(("name", "given"), MODELS)
def test_a_folder_of_timm(name: str, given: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image
    from timm.data import create_transform, resolve_data_config
    from timm.models._hub import save_for_hf

    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **given).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    served = load_model(Settings.load(tmp_path, device="cpu"))
    pixels = np.random.default_rng(0).integers(0, 255, (300, 420, 3), dtype=np.uint8)
    config = json.loads((tmp_path / "config.json").read_text())
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"]))
    wanted = transform(Image.fromarray(pixels))[None]
    found = torch.from_numpy(served.task.recipe.apply(pixels))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(served.module(wanted), model(wanted))
