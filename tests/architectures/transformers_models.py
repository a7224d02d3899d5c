"""A tiny random model of every class of transformers that can be built here: what tests of `hf-dir` compare with."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

MOST_PARAMETERS = 30_000_000
_SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "embed_dim", "projection_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "d_ff", "hidden_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 64),
    **{"vocab_size": 99, "d_kv": 8, "head_dim": 8, "moe_intermediate_size": 16, "num_labels": 3},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}
# One of each way in which the saved names differ from the module's, and the usual ones.
SAMPLE = (
    *("vit", "deit", "swin", "segformer", "videomae", "audio-spectrogram-transformer", "yolos", "gpt_neox", "mixtral"),
    *(
        "marian",
        "t5",
        "whisper",
        "clip",
        "bert",
        "roberta",
        "distilbert",
        "albert",
        "electra",
        "gpt2",
        "llama",
        "qwen2",
    ),
    *("wav2vec2", "hubert", "convnext", "resnet", "mobilevit", "blip", "bart", "opt", "phi3", "gemma2", "mistral"),
    *("deberta-v2", "layoutlm", "dinov2", "xlm-roberta", "mpnet", "siglip", "dpt", "speecht5"),
)


def model_types() -> list[str]:
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    return sorted(auto.MODEL_MAPPING_NAMES)


def built(model_type: str) -> nn.Module:
    """A tiny model of a type, on the CPU; skips where its default configuration can't be made small."""
    import transformers
    from transformers.models.auto import configuration_auto, modeling_auto

    names = modeling_auto.MODEL_MAPPING_NAMES[model_type]
    cls = getattr(transformers, names if isinstance(names, str) else names[0])
    try:
        config = _tiny(configuration_auto.CONFIG_MAPPING[model_type]())
        with torch.device("meta"):
            count = sum(each.numel() for each in cls(copy.deepcopy(config)).parameters())
        if count > MOST_PARAMETERS:
            pytest.skip(f"{count:,} parameters with a small configuration")
        torch.manual_seed(0)
        model: nn.Module = cls(copy.deepcopy(config)).eval()
    except Exception as error:  # noqa: BLE001  # configurations check their numbers, and packages may be missing
        pytest.skip(f"can't be built small: {str(error)[:100]}")
    return model


def saved(model: Any, folder: Path) -> nn.Module:
    """Save a model, and load it again by transformers itself; skips where that is not possible."""
    try:
        model.save_pretrained(folder)
        loaded: nn.Module = type(model).from_pretrained(folder).eval()
    except Exception as error:  # noqa: BLE001  # a configuration that is small in a way it can't be read again
        pytest.skip(f"transformers does not read what it saves: {str(error)[:100]}")
    return loaded


def _tiny(config: Any, depth: int = 3) -> Any:
    for name, value in _SIZES.items():
        if type(getattr(config, name, None)) is int:
            setattr(config, name, value)
    for name, value in list(vars(config).items()):
        if depth and hasattr(value, "model_type") and name != "_":
            _tiny(value, depth - 1)
    return config
