"""A tiny random model of every class of transformers that can be built here: what tests of `hf-dir` compare with."""

import copy
import inspect
from collections.abc import Mapping
from functools import cache
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
    **{"vocab_size": 99, "d_kv": 8, "head_dim": 8, "moe_intermediate_size": 16, "num_labels": 3, "rotary_dim": 4},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "prediction_length": 4},
    **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 16},
    **{"pooler_hidden_size": 32, "visual_embedding_dim": 32, "coordinate_size": 4, "shape_size": 4},
}
# By a class of configurations: what has to go with the sizes above, or what they break.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "LayoutLMv3Config": {"coordinate_size": 6, "shape_size": 4},
    "DebertaConfig": {"pooler_hidden_size": 32},
    "ReformerConfig": {"axial_pos_embds_dim": (16, 16)},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "BambaConfig": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "GraniteMoeHybridConfig": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "EsmcConfig": {"num_key_value_heads": 4},
    "EsmConfig": {"position_embedding_type": "rotary"},
    "Gemma2Config": {"sliding_window": 16},
    "ConvNextConfig": {"hidden_sizes": [16, 32], "depths": [1, 1]},
    "ConvNextV2Config": {"hidden_sizes": [16, 32], "depths": [1, 1]},
    "TimeSeriesTransformerConfig": {"prediction_length": 4, "context_length": 32},
    "InformerConfig": {"prediction_length": 4, "context_length": 32},
    "AutoformerConfig": {"prediction_length": 4, "context_length": 32},
    "DebertaV2Config": {"pooler_hidden_size": 32},
    "SwinConfig": {"embed_dim": 24, "num_heads": [3, 3, 6, 6], "depths": [1, 1, 1, 1]},
    "Swinv2Config": {"embed_dim": 24, "num_heads": [3, 3, 6, 6], "depths": [1, 1, 1, 1]},
    "DonutSwinConfig": {"embed_dim": 24, "num_heads": [3, 3, 6, 6], "depths": [1, 1, 1, 1]},
    "MaskFormerSwinConfig": {"embed_dim": 24, "num_heads": [3, 3, 6, 6], "depths": [1, 1, 1, 1]},
}
# One of each way in which the saved names differ from the module's, and the usual ones.
SAMPLE = (
    *("ViTForImageClassification", "DeiTForImageClassification", "SwinModel", "SegformerForSemanticSegmentation"),
    *("VideoMAEModel", "ASTModel", "YolosForObjectDetection", "GPTNeoXForCausalLM", "MixtralForCausalLM"),
    *("MarianMTModel", "T5ForConditionalGeneration", "WhisperForConditionalGeneration", "CLIPModel", "BertForMaskedLM"),
    *("RobertaForSequenceClassification", "DistilBertForQuestionAnswering", "AlbertForTokenClassification"),
    *("ElectraForTokenClassification", "GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM", "SamModel"),
    *("Wav2Vec2ForCTC", "HubertModel", "ConvNextModel", "ResNetForImageClassification", "MobileViTModel"),
    *("BlipTextModel", "BartForConditionalGeneration", "OPTForCausalLM", "Phi3ForCausalLM"),
    *(
        "Gemma2ForCausalLM",
        "MistralForCausalLM",
        "DebertaV2ForSequenceClassification",
        "LayoutLMForTokenClassification",
    ),
    *("Dinov2Model", "XLMRobertaModel", "MPNetModel", "SiglipModel", "DPTModel", "SpeechT5Model"),
    *(
        "PatchTSTForPrediction",
        "TimeSeriesTransformerModel",
        "BertForMultipleChoice",
        "LongT5ForConditionalGeneration",
        "MBartForConditionalGeneration",
    ),
    *("CamembertForTokenClassification", "RegNetForImageClassification", "UperNetForSemanticSegmentation"),
)


@cache
def classes() -> tuple[str, ...]:
    """Every class in transformers' auto mappings."""
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    tables = [name for name in dir(auto) if name.startswith("MODEL_") and name.endswith("_MAPPING_NAMES")]
    found = [names for table in tables for names in getattr(auto, table).values()]
    return tuple(sorted({name for names in found for name in (names if isinstance(names, tuple) else (names,))}))


def built(name: str) -> nn.Module:
    """A tiny model of a class, on the CPU; skips where its default configuration can't be made small."""
    import transformers

    try:
        cls = getattr(transformers, name)
        config = _tiny(cls.config_class())
        if name.endswith("QuestionAnswering"):
            config.num_labels = 2  # where an answer begins and ends
        with torch.device("meta"):
            count = sum(each.numel() for each in cls(copy.deepcopy(config)).parameters())
        if count > MOST_PARAMETERS:
            pytest.skip("not built: too many parameters with a small configuration")
        torch.manual_seed(0)
        model: nn.Module = cls(copy.deepcopy(config)).eval()
    except Exception as error:  # noqa: BLE001  # configurations check their numbers, and packages may be missing
        pytest.skip(f"not built: {_first(error)}")
    return model


def saved(model: Any, folder: Path) -> nn.Module:
    """Save a model, and load it again by transformers itself; skips where that is not possible."""
    try:
        model.save_pretrained(folder)
        loaded: nn.Module = type(model).from_pretrained(folder).eval()
    except Exception as error:  # noqa: BLE001  # a configuration that is small in a way it can't be read again
        pytest.skip(f"not saved and read by transformers: {_first(error)}")
    return loaded


def compare_state(ours: Any, wanted: Any) -> None:
    """Every tensor of the two is the same: those that are saved, and those that a constructor computes."""
    state, theirs = ours.state_dict(), wanted.state_dict()
    assert state.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(torch.nan_to_num(state[name].float()), torch.nan_to_num(value.float())), name
    buffers = dict(ours.named_buffers())
    for name, value in wanted.named_buffers():
        torch.testing.assert_close(buffers[name], value, equal_nan=True)


def answered(model: Any, given: Mapping[str, torch.Tensor]) -> Any:
    """What a model makes of inputs; skips where it needs others."""
    try:
        return _called(model, given)
    except Exception as error:  # noqa: BLE001  # any
        pytest.skip(f"equal in state; made-up inputs do not suit it: {_first(error)}")


def _called(model: Any, given: Mapping[str, torch.Tensor]) -> Any:
    with torch.no_grad():
        torch.manual_seed(0)  # some draw: masks, diffusion, codes
        return model(**given)


def compare_outputs(ours: Any, given: Mapping[str, torch.Tensor], wanted: Any) -> int:
    """How many tensors our module answers with, each equal to the wanted one."""
    return _equal(_called(ours, given), wanted)


def _equal(ours: Any, wanted: Any) -> int:
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(ours, wanted, equal_nan=True)
        return 1
    if isinstance(wanted, Mapping):
        assert list(ours) == list(wanted)
        return sum(_equal(ours[name], wanted[name]) for name in wanted)
    if isinstance(wanted, (tuple, list)):
        assert len(ours) == len(wanted)
        return sum(_equal(*pair) for pair in zip(ours, wanted, strict=True))
    return 0


def inputs(model: Any) -> dict[str, torch.Tensor]:
    """Made-up inputs, of two rows, by the names of what `forward` takes."""
    config = model.config
    takes = list(inspect.signature(model.forward).parameters)
    torch.manual_seed(1)
    ids = torch.arange(3, 19).reshape(2, 8)
    ids[:, -1] = 2  # where BART looks for the end
    frames = 2 * _of(config, "max_source_positions", 64)
    side, channels = _sides(config), _of(config, "num_channels", 3)
    length, steps = _of(config, "context_length", 32), _of(config, "prediction_length", 4)
    lags = max(getattr(config, "lags_sequence", None) or [0])
    known = {
        "input_ids": ids, "decoder_input_ids": ids, "bbox": torch.zeros(2, 8, 4, dtype=torch.long),
        "pixel_values": torch.rand(2, channels, *side), "input_values": torch.rand(2, 16_000),
        "input_features": torch.rand(2, _of(config, "num_mel_bins", 80), frames),
        "past_values": torch.rand(2, length + lags, _of(config, "num_input_channels", 1)),
        "past_time_features": torch.rand(2, length + lags, _of(config, "num_time_features", 0)),
        "past_observed_mask": torch.ones(2, length + lags, _of(config, "num_input_channels", 1), dtype=torch.bool),
        "future_values": torch.rand(2, steps), "future_time_features": torch.rand(2, steps, 0),
    }  # fmt: skip
    series = model.main_input_name == "past_values"
    made = {
        name: value for name, value in known.items() if name in takes and (series or name[:4] not in ("past", "futu"))
    }
    if type(model).__name__.startswith("AST"):
        made = {"input_values": torch.rand(2, config.max_length, config.num_mel_bins)}
    if type(model).__name__.startswith("VideoMAE"):
        made["pixel_values"] = torch.rand(2, config.num_frames, channels, *side)
    if type(model).__name__.endswith("MultipleChoice"):
        made = {name: torch.stack([value, value.flip(1)], 1) for name, value in made.items()}
    if type(model).__name__.startswith("PatchTS") and "future_values" in made:
        del made["future_values"]
    if "past_values" in made and type(model).__name__.startswith(("TimeSeries", "Autoformer", "Informer")):
        made.update({name: made[name][..., 0] for name in ("past_values", "past_observed_mask")})
    if "decoder_input_ids" in made and not config.is_encoder_decoder:
        del made["decoder_input_ids"]
    if model.main_input_name not in ("input_ids", "pixel_values") and "decoder_input_ids" not in made:
        made.pop("input_ids", None)
    return made


def _of(config: Any, name: str, otherwise: int) -> int:
    for each in (config, *vars(config).values()):
        if hasattr(each, "model_type") and isinstance(found := getattr(each, name, None), int):
            return found
    return otherwise


def _sides(config: Any) -> tuple[int, int]:
    for each in (config, *vars(config).values()):
        side = getattr(each, "image_size", None) if hasattr(each, "model_type") else None
        if isinstance(side, int):
            return side, side
        if isinstance(side, (list, tuple)) and len(side) == 2:
            return int(side[0]), int(side[1])
    return 64, 64


def _tiny(config: Any, depth: int = 3) -> Any:
    """A configuration with small numbers in place of its own, and so those in it."""
    for name, value in {**_SIZES, **_OVERRIDES.get(type(config).__name__, {})}.items():
        if _plain(config, name) or name in _OVERRIDES.get(type(config).__name__, {}):
            _set(config, name, value)
    if vars(config).get("pad_token_id", 0) is None:
        config.pad_token_id = 0
    layers = getattr(config, "num_hidden_layers", None)
    types = vars(config).get("layer_types")
    if isinstance(types, list) and isinstance(layers, int) and len(types) > layers:
        config.layer_types = sorted(set(types), key=types.index)[:layers] + types[: max(layers - len(set(types)), 0)]
    stages = vars(config).get("stage_names") or []
    if isinstance(layers, int) and len(stages) > layers + 1 and config.out_features == stages[-1:]:
        config.stage_names = stages[: layers + 1]
        config._out_features, config._out_indices = [config.stage_names[-1]], [len(config.stage_names) - 1]
    for name, value in list(vars(config).items()):
        if depth and hasattr(value, "model_type") and name != "_":
            _tiny(value, depth - 1)
    return config


def _plain(config: Any, name: str) -> bool:
    try:
        return type(getattr(config, name, None)) is int
    except Exception:  # noqa: BLE001  # some properties raise for configurations of several layers
        return False


def _set(config: Any, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except (AttributeError, NotImplementedError):  # computed from others
        return


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:90] if lines else ''}"
