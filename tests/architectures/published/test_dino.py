"""A vision transformer without a head under timm's names, as DINO publishes it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import score
from score.errors import SeveralWeights
from score.formats import registry
from score.weights import select
from tests.architectures.published import test_dinov2


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> test_dinov2.Dino:
    """The network of DINOv2's test, without what DINO does not have, as wide as one that was published."""
    monkeypatch.setattr(test_dinov2, "WIDTH", 192)
    torch.manual_seed(4)
    found = test_dinov2.Dino(False, 0).eval()
    del found.mask_token
    for block in found.blocks:
        block.ls1, block.ls2 = nn.Identity(), nn.Identity()
    return found


def close(served: Any, backbone: Any) -> None:
    pixels = torch.randn(2, 3, test_dinov2.SIDE * test_dinov2.PATCH, test_dinov2.SIDE * test_dinov2.PATCH)
    with torch.inference_mode():
        found = served(pixels).last_hidden_state
        torch.testing.assert_close(found, backbone(pixels), rtol=1e-4, atol=1e-4)


def test_a_backbone_is_a_vision_transformer(tmp_path: Path, backbone: Any) -> None:
    torch.save(backbone.state_dict(), tmp_path / "dino_deitsmall16_pretrain.pth")
    close(score.load(tmp_path), backbone)


def test_of_a_training_it_is_the_one_that_is_named(tmp_path: Path, backbone: Any) -> None:
    state = backbone.state_dict()
    head = {"head.mlp.0.weight": torch.randn(8, 192), "head.last_layer.weight_g": torch.ones(8, 1)}
    teacher = {f"backbone.{name}": value for name, value in state.items()} | head
    student = {f"module.backbone.{name}": torch.zeros_like(value) for name, value in state.items()}
    student |= {f"module.{name}": value for name, value in head.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 100}, tmp_path / "checkpoint.pth")
    with pytest.raises(SeveralWeights):
        score.load(tmp_path)
    close(score.load(tmp_path, weights="teacher"), backbone)


def test_one_with_a_head_is_another(tmp_path: Path, backbone: Any) -> None:
    from score.architectures import published

    torch.save(backbone.state_dict() | {"head.weight": torch.ones(5, 192)}, tmp_path / "vit.pth")
    weights = select.weights_of(registry.open_checkpoint(tmp_path / "vit.pth"))
    assert weights is not None and published.of(weights.shapes()) is None
