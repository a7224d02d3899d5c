"""DINOv2 as Meta publishes it (`dinov2_vits14_pretrain.pth` ...), with registers or without.

Source: Oquab et al. 2023, Darcet et al. 2024, and the names and shapes in the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from score.architectures.published import parts
from score.formats.base import ModelFactory, Shapes, TensorRef

NAMES = ("Dinov2Model", "Dinov2WithRegistersModel")
_MARKS = frozenset(("cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight", "blocks.0.ls1.gamma"))
_HEAD = 64  # numbers of each head, in all sizes
_CHUNK = re.compile(r"^blocks\.\d+\.(\d+\.)")  # layers in groups, as they were trained
_NAMES = parts.patterns(
    (_CHUNK.pattern, r"blocks.\1"),
    (r"^cls_token", "embeddings.cls_token"),
    (r"^mask_token", "embeddings.mask_token"),
    (r"^register_tokens", "embeddings.register_tokens"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"^norm\.", "layernorm."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.ls([12])\.gamma", r".layer_scale\1.lambda1"),
    (r"\.mlp\.w3\.", ".mlp.down_proj."),
)


def factory(shapes: Shapes) -> ModelFactory | None:
    shapes = {_CHUNK.sub(r"blocks.\1", name): shape for name, shape in shapes.items()}
    if not shapes.keys() >= _MARKS or len(shapes["pos_embed"]) != 3 or len(shapes["patch_embed.proj.weight"]) != 4:
        return None
    width, patch = shapes["pos_embed"][2], shapes["patch_embed.proj.weight"][-1]
    side = math.isqrt(shapes["pos_embed"][1] - 1)
    gated = "blocks.0.mlp.w12.weight" in shapes
    count = parts.layers(shapes, "blocks.")
    hidden = shapes.get("blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight", (0, 0))[1]
    if side * side + 1 != shapes["pos_embed"][1] or width % _HEAD or not count or (hidden % width and not gated):
        return None
    registers = shapes.get("register_tokens", (1, 0, 0))[1]

    def build() -> torch.nn.Module:
        import transformers

        said: dict[str, Any] = {
            "hidden_size": width,
            "num_hidden_layers": count,
            "num_attention_heads": width // _HEAD,
            "mlp_ratio": 4 if gated else hidden // width,  # of gated ones transformers takes two thirds
            "image_size": side * patch,
            "patch_size": patch,
            "num_channels": shapes["patch_embed.proj.weight"][1],
            "use_swiglu_ffn": gated,
            "layer_norm_eps": 1e-6,
        }
        if registers:
            config = transformers.Dinov2WithRegistersConfig(num_register_tokens=registers, **said)
            return transformers.Dinov2WithRegistersModel(config)  # type: ignore[no-any-return]
        return transformers.Dinov2Model(transformers.Dinov2Config(**said))  # type: ignore[no-any-return]

    return ModelFactory(f"transformers.{NAMES[bool(registers)]}", build)


def renamed(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    found: dict[str, TensorRef] = {}
    for theirs, ref in tensors.items():
        name = parts.named(theirs, _NAMES)
        if ".attn.qkv." in name:
            found |= parts.queries(name, ref, ".attn.qkv.", ".attention.{}_proj.")
        elif ".mlp.w12." in name:
            for at, kind in enumerate(("gate", "up")):
                found[name.replace(".w12.", f".{kind}_proj.")] = parts.slices(ref, 2, at)
        else:
            found[name] = ref
    return found
