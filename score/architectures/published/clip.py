"""CLIP under the names of OpenAI's code and open_clip's, with a vision transformer.

The two differ in their activation, and no tensor tells: it has to be said. Source: Radford et al. 2021, Cherti et al.
2022, and the names and shapes in the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

from score.architectures.published import parts
from score.errors import ArchitectureUndecided
from score.formats.base import ModelFactory, Shapes, TensorRef

NAMES = ("CLIPModel",)
_MARKS = frozenset(
    ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "token_embedding.weight",
     "positional_embedding", "text_projection", "logit_scale", "ln_final.weight")
)  # fmt: skip
_BESIDE = frozenset(("input_resolution", "context_length", "vocab_size", "attn_mask"))  # what OpenAI's has too
# By the width of a vision transformer, its heads: those of OpenAI's and open_clip's sizes.
_HEADS = {512: 8, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
_TEXT_HEAD = 64
_NAMES = parts.patterns(
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)
_TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def factory(shapes: Shapes) -> ModelFactory | None:
    if not shapes.keys() >= _MARKS or len(shapes["visual.conv1.weight"]) != 4 or len(shapes["visual.proj"]) != 2:
        return None
    width, _, patch, _ = shapes["visual.conv1.weight"]
    side = math.isqrt(shapes["visual.positional_embedding"][0] - 1)
    words, text_width = shapes["token_embedding.weight"]
    first = (
        shapes.get("visual.transformer.resblocks.0.mlp.c_fc.weight"),
        shapes.get("transformer.resblocks.0.mlp.c_fc.weight"),
    )
    if side * side + 1 != shapes["visual.positional_embedding"][0] or None in first:
        return None

    def build(
        hidden_act: Literal["quick_gelu", "gelu", ""] = "", vision_heads: int = _HEADS.get(width, 0)
    ) -> torch.nn.Module:
        import transformers

        if not hidden_act or not vision_heads:
            lacking = "hidden_act" if not hidden_act else "vision_heads"
            example = '{"hidden_act": "quick_gelu"}' if not hidden_act else '{"vision_heads": 16}'
            raise ArchitectureUndecided(
                f"the weights are those of CLIP, and shapes can't tell its {lacking}",
                hint=f"Say it: SCORE_ARCHITECTURE_KWARGS='{example}'. OpenAI's weights, and open_clip's models named "
                "-quickgelu, have quick_gelu; all others of open_clip have gelu.",
                detail="hidden_act: quick_gelu, gelu" if not hidden_act else "vision_heads: a number",
            )
        inner = {"hidden_act": hidden_act, "projection_dim": shapes["visual.proj"][1]}
        vision = {
            "hidden_size": width, "num_hidden_layers": parts.layers(shapes, "visual.transformer.resblocks."),
            "num_attention_heads": vision_heads, "intermediate_size": first[0][0],  # type: ignore[index]
            "image_size": side * patch, "patch_size": patch, **inner,
        }  # fmt: skip
        text = {
            "vocab_size": words, "hidden_size": text_width,
            "num_hidden_layers": parts.layers(shapes, "transformer.resblocks."),
            "num_attention_heads": text_width // _TEXT_HEAD, "intermediate_size": first[1][0],  # type: ignore[index]
            "max_position_embeddings": shapes["positional_embedding"][0],
            "eos_token_id": 2,  # which has the state at the highest token taken, as OpenAI's code does
            **inner,
        }  # fmt: skip
        config = transformers.CLIPConfig(
            vision_config=vision, text_config=text, projection_dim=shapes["visual.proj"][1]
        )
        return transformers.CLIPModel(config)  # type: ignore[no-any-return]

    return ModelFactory("transformers.CLIPModel", build)


def renamed(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """In float32 where the weights are of several precisions, as OpenAI's are: its own code casts between them."""
    mixed = len({ref.dtype for ref in tensors.values() if ref.dtype.is_floating_point}) > 1
    found: dict[str, TensorRef] = {}
    for theirs, given in tensors.items():
        if theirs in _BESIDE:
            continue
        ref = parts.as_float32(given) if mixed else given
        if theirs in _TURNED:
            found[_TURNED[theirs]] = parts.turned(ref)
            continue
        name = parts.named(theirs, _NAMES)
        if ".in_proj_" in name:
            found |= parts.queries(name, ref, ".in_proj_", ".{}_proj.")
        else:
            found[name] = ref
    return found
