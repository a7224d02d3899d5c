"""Segment Anything under Meta's names, against Meta's own package."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import score


@pytest.fixture
def modeling(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's networks, without what it takes of torchvision to read pictures."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        if name not in sys.modules:
            stub = ModuleType(name)
            stub.resize = stub.to_pil_image = None  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, name, stub)
    boxes = ModuleType("torchvision.ops.boxes")
    boxes.batched_nms = boxes.box_area = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.ops", ModuleType("torchvision.ops"))
    monkeypatch.setitem(sys.modules, "torchvision.ops.boxes", boxes)
    return pytest.importorskip("segment_anything.modeling")


def made(modeling: Any) -> Any:
    from functools import partial

    torch.manual_seed(1)
    encoder = modeling.ImageEncoderViT(
        img_size=128, patch_size=16, embed_dim=32, depth=4, num_heads=2, mlp_ratio=3, out_chans=256, qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=4, global_attn_indexes=(1, 3),
    )  # fmt: skip
    prompts = modeling.PromptEncoder(
        embed_dim=256, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=16
    )
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256
    )
    sam = modeling.Sam(encoder, prompts, decoder).eval()
    for parameter in sam.parameters():  # tables that start as zeros would hide that they are not read
        torch.nn.init.normal_(parameter, std=0.05)
    return sam


def test_its_masks_are_those_of_the_package(tmp_path: Path, modeling: Any) -> None:
    sam = made(modeling)
    torch.save(sam.state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    served = score.load(tmp_path)
    assert type(served).__name__ == "SamModel"
    pixels = torch.randn(1, 3, 128, 128)
    points, labels = torch.tensor([[[40.0, 60.0], [100.0, 20.0]]]), torch.tensor([[1, 0]])
    with torch.inference_mode():
        encoded = sam.image_encoder(pixels)
        sparse, dense = sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        masks, scores = sam.mask_decoder(encoded, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
        found = served(pixel_values=pixels, input_points=points[:, None], input_labels=labels[:, None])
    torch.testing.assert_close(found.pred_masks[:, 0], masks, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.iou_scores[:, 0], scores, rtol=1e-3, atol=1e-4)
