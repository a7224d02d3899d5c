"""A vision transformer without a head, as DINO and MAE publish theirs (`dino_deitsmall16_pretrain.pth` ...), and timm
names its parts.

Of a checkpoint of DINO's training it is the backbone, of student or teacher. Source: Caron et al. 2021, Dosovitskiy et
al. 2021, and the names and shapes in the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from score.architectures.published import parts
from score.formats.base import ModelFactory, Shapes, TensorRef

NAMES = ("ViTModel",)
_FIRST = "cls_token"
_MARKS = frozenset((_FIRST, "pos_embed", "patch_embed.proj.weight", "norm.weight", "blocks.0.mlp.fc1.weight"))
_OF_LAYERS = frozenset(
    f"{part}.{kind}"
    for part in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
)
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}  # of the sizes that have been published
_NAMES = parts.patterns(
    (r"^cls_token", "embeddings.cls_token"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "layers."),
    (r"^norm\.", "layernorm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
)


def _prefix(shapes: Mapping[str, object]) -> str:
    """What the backbone's names begin with."""
    return next((name.removesuffix(_FIRST) for name in shapes if name.endswith(f"backbone.{_FIRST}")), "")


def factory(shapes: Shapes) -> ModelFactory | None:
    prefix = _prefix(shapes)
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    if not own.keys() >= _MARKS or len(own["pos_embed"]) != 3 or len(own["patch_embed.proj.weight"]) != 4:
        return None
    _, places, width = own["pos_embed"]
    _, channels, _, patch = own["patch_embed.proj.weight"]
    side, count = math.isqrt(places - 1), parts.layers(own, "blocks.")
    others = own.keys() - _MARKS - {"patch_embed.proj.bias", "norm.bias"}
    strange = [name for name in others if name.split(".", 2)[-1] not in _OF_LAYERS or not name.startswith("blocks.")]
    if strange or side * side + 1 != places or width not in _HEADS or not count:
        return None

    def build() -> torch.nn.Module:
        import transformers

        config = transformers.ViTConfig(
            hidden_size=width, num_hidden_layers=count, num_attention_heads=_HEADS[width],
            intermediate_size=own["blocks.0.mlp.fc1.weight"][0], image_size=side * patch, patch_size=patch,
            num_channels=channels, qkv_bias="blocks.0.attn.qkv.bias" in own, layer_norm_eps=1e-6,
        )  # fmt: skip
        return transformers.ViTModel(config, add_pooling_layer=False)  # type: ignore[no-any-return]

    return ModelFactory("transformers.ViTModel", build)


def renamed(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    prefix = _prefix(tensors)
    found: dict[str, TensorRef] = {}
    for theirs, ref in tensors.items():
        own = theirs.removeprefix(prefix)
        name = parts.named(own, _NAMES)
        if not theirs.startswith(prefix) or name == own:
            found[theirs] = ref  # a head of the training, which answers nothing
            continue
        if ".attn.qkv." in name:
            found |= parts.queries(name, ref, ".attn.qkv.", ".attention.{}_proj.")
        else:
            found[name] = ref
    return found
