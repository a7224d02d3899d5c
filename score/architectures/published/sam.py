"""Segment Anything as Meta publishes it: `sam_vit_b_01ec64.pth` and its larger ones.

Source: Kirillov et al. 2023, and the names and shapes in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from score.architectures.published import parts
from score.formats.base import ModelFactory, Shapes, TensorRef

NAMES = ("SamModel",)
_POINTS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_MARKS = frozenset(
    (_POINTS, "image_encoder.pos_embed", "image_encoder.patch_embed.proj.weight", "mask_decoder.mask_tokens.weight")
)
_NAMES = parts.patterns(
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(_mlps\.\d+|prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(_mlps\.\d+|prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(_mlps\.\d+|prediction_head)\.layers\.2\.", r"\1.proj_out."),
)


def factory(shapes: Shapes) -> ModelFactory | None:
    if not shapes.keys() >= _MARKS or len(shapes["image_encoder.pos_embed"]) != 4:
        return None
    _, side, _, width = shapes["image_encoder.pos_embed"]
    patch = shapes["image_encoder.patch_embed.proj.weight"][-1]
    count = parts.layers(shapes, "image_encoder.blocks.")
    reach = [shapes.get(f"image_encoder.blocks.{at}.attn.rel_pos_h", (0, 0)) for at in range(count)]
    head = reach[0][1] if reach else 0
    windows = {rows for rows, _ in reach} - {2 * side - 1}
    if not head or width % head or len(windows) > 1:
        return None
    mlp = shapes["image_encoder.blocks.0.mlp.lin1.weight"][0]

    def build() -> torch.nn.Module:
        import transformers

        vision: dict[str, Any] = {
            "hidden_size": width,
            "num_hidden_layers": count,
            "num_attention_heads": width // head,
            "image_size": side * patch,
            "patch_size": patch,
            "output_channels": shapes["image_encoder.neck.0.weight"][0],
            "mlp_ratio": mlp / width,
            "mlp_dim": mlp,
            "window_size": (next(iter(windows), 27) + 1) // 2,
            "global_attn_indexes": [at for at, (rows, _) in enumerate(reach) if rows == 2 * side - 1],
        }
        prompt = {"image_size": side * patch, "patch_size": patch, "image_embedding_size": side}
        config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt)
        return transformers.SamModel(config)  # type: ignore[no-any-return]

    return ModelFactory("transformers.SamModel", build)


def renamed(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    found: dict[str, TensorRef] = {}
    for theirs, ref in tensors.items():
        if theirs == _POINTS:
            found["shared_image_embedding.positional_embedding"] = ref
            found["prompt_encoder.shared_embedding.positional_embedding"] = ref
            continue
        name = parts.named(theirs, _NAMES)
        found[name] = ref
    return found
