"""Whisper as OpenAI publishes it, one `.pt` with `dims` and `model_state_dict`: built by transformers, under its names.

Source: Radford et al. 2022, and the names and shapes in the files.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from score.architectures.published import parts
from score.errors import ArchitectureBroken
from score.formats.base import Checkpoint, ModelFactory
from score.weights.select import Candidate

NAME = "WhisperForConditionalGeneration"
_DIMS = (
    *("n_mels", "n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer"),
    *("n_text_ctx", "n_text_state", "n_text_head", "n_text_layer"),
)
_MOST = 1 << 20
# In this order: what a name of OpenAI's begins with, ends with or holds, and what transformers has for it.
_NAMES = parts.patterns(
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn\.", ".self_attn."),
    (r"_attn\.query\.", "_attn.q_proj."),
    (r"_attn\.key\.", "_attn.k_proj."),
    (r"_attn\.value\.", "_attn.v_proj."),
    (r"_attn\.out\.", "_attn.out_proj."),
    (r"^encoder\.ln_post\.", "encoder.layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
    (r"^decoder\.token_embedding\.", "decoder.embed_tokens."),
    (r"positional_embedding$", "embed_positions.weight"),
    (r"^", "model."),
)


def factory_of(checkpoint: Checkpoint) -> ModelFactory | None:
    """The class for a checkpoint of OpenAI's Whisper; None for any other."""
    dims = checkpoint.tree.get("dims") if isinstance(checkpoint.tree, dict) else None
    if not isinstance(dims, dict) or set(dims) != set(_DIMS) or "model_state_dict" not in checkpoint.tree:
        return None
    if not all(isinstance(each, int) and 0 < each < _MOST for each in dims.values()):
        return None
    if importlib.util.find_spec("transformers") is None:
        return None
    return ModelFactory(f"transformers.{NAME}", lambda: _build(dims))


def _build(dims: Mapping[str, Any]) -> torch.nn.Module:
    import transformers

    if dims["n_audio_state"] != dims["n_text_state"]:
        raise ArchitectureBroken("a Whisper whose encoder and decoder are of different widths")
    several = dims["n_vocab"] >= 51865  # languages; one alone has a token less
    start, end = (50258, 50257) if several else (50257, 50256)
    config = transformers.WhisperConfig(
        vocab_size=dims["n_vocab"], num_mel_bins=dims["n_mels"], d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"], encoder_attention_heads=dims["n_audio_head"],
        decoder_layers=dims["n_text_layer"], decoder_attention_heads=dims["n_text_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"], decoder_ffn_dim=4 * dims["n_text_state"],
        max_source_positions=dims["n_audio_ctx"], max_target_positions=dims["n_text_ctx"],
        decoder_start_token_id=start, bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    module: torch.nn.Module = transformers.WhisperForConditionalGeneration(config)
    return module


def renamed(weights: Candidate) -> Candidate:
    """The weights under transformers' names, where they are OpenAI's; as they are for any other."""
    if "encoder.ln_post.weight" not in weights.tensors:
        return weights
    return replace(weights, tensors={parts.named(name, _NAMES): ref for name, ref in weights.tensors.items()})
