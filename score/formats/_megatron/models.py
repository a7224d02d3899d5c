"""Which class of transformers computes what a checkpoint of Megatron's does: GPT-2, Llama, Qwen2, Qwen3.

It is one where the arguments that change what is computed say so, and every tensor has its place. Rows of queries, keys
and values lie group by group (since version 2 of the checkpoints); a gated layer has its gate first. Source: names and
shapes in the files, and megatron/core/transformer/attention.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from score.formats._pickle import pieces
from score.formats._transformers import library
from score.formats.base import ModelFactory, TensorRef, computed

Tensors = dict[str, TensorRef]
_CORE = (  # what older versions, and the layers of Transformer Engine, call the same
    (re.compile(r"^language_model\.(encoder|transformer)\."), "decoder."),
    (re.compile(r"^language_model\."), ""),
    (re.compile(r"\.(self_attention|attention)\.query_key_value\."), ".self_attention.linear_qkv."),
    (re.compile(r"\.(self_attention|attention)\.dense\."), ".self_attention.linear_proj."),
    (re.compile(r"\.dense_h_to_4h\."), ".linear_fc1."),
    (re.compile(r"\.dense_4h_to_h\."), ".linear_fc2."),
    (re.compile(r"\.self_attention\.linear_qkv\.layer_norm_"), ".input_layernorm."),
    (re.compile(r"\.mlp\.linear_fc1\.layer_norm_"), ".pre_mlp_layernorm."),
    (re.compile(r"\.post_attention_(layer)?norm\."), ".pre_mlp_layernorm."),
    (re.compile(r"\.input_norm\."), ".input_layernorm."),
    (re.compile(r"\.final_norm\."), ".final_layernorm."),
)
_LAYER = re.compile(r"decoder\.layers\.(\d{1,5})\.(.+)\Z")
_TIED = ("output_layer.weight", "word_embeddings_for_head.weight")
# Arguments that change what is computed, and what each of them has to say. Absent is as Megatron's own default.
_SAME: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("num_experts", "window_size", "rotary_seq_len_interpolation_factor"), (None,)),
    **dict.fromkeys(("mtp_num_layers", "glu_linear_offset"), (None, 0)),
    **dict.fromkeys(("apply_residual_connection_post_layernorm", "apply_layernorm_1p", "squared_relu"), (False, None)),
    **dict.fromkeys(("multi_latent_attention", "rotary_interleaved", "bert_binary_head"), (False, None)),
    **dict.fromkeys(("openai_gelu", "quick_geglu", "hybrid_override_pattern", "no_rope_freq"), (False, None)),
    **dict.fromkeys(("heterogeneous_layers_config_path", "activation_func_clamp_value"), (None,)),
    "rotary_percent": (1.0, None),
    "softmax_type": ("vanilla", None),
}
_LLAMA = {"swiglu": True, "normalization": "RMSNorm", "add_bias_linear": False, "position_embedding_type": "rope"}
_GPT2 = {
    **{"swiglu": False, "normalization": "LayerNorm", "add_bias_linear": True},
    **{"position_embedding_type": "learned_absolute", "use_rotary_position_embeddings": False},
}
_OTHERWISE = {  # Megatron's defaults
    **{"swiglu": False, "normalization": "LayerNorm", "add_bias_linear": True, "add_qkv_bias": False},
    **{"position_embedding_type": "learned_absolute", "qk_layernorm": False, "bias_gelu_fusion": True},
    **{"untie_embeddings_and_output_weights": False, "rotary_base": 10000, "use_rope_scaling": False},
    **{"rope_scaling_factor": 8.0, "use_rotary_position_embeddings": False},
}


@dataclass(frozen=True)
class Known:
    """A class of transformers, and the tensors under its names."""

    factory: ModelFactory
    tensors: Mapping[str, TensorRef]


class _Other(Exception):
    """A tensor or an argument that none of the known classes has."""


def of(args: Mapping[str, Any], tensors: Tensors, version: float) -> Known | None:
    """The class for a checkpoint's arguments and tensors; None where none is known to compute the same."""
    said = _OTHERWISE | {name: value for name, value in args.items() if value is not None}
    if version < 2 or any(args.get(name) not in allowed for name, allowed in _SAME.items()):
        return None
    for kind, make in ((_LLAMA, _llama), (_GPT2, _gpt2)):
        if all(said.get(name) == value for name, value in kind.items()):
            try:
                return make(said, _core(tensors, said))
            except (_Other, KeyError):
                return None
    return None


def _core(tensors: Tensors, said: Mapping[str, Any]) -> Tensors:
    """The tensors under the names of Megatron's core; without the copy of the embedding that a last stage has."""
    found: Tensors = {}
    for name, ref in tensors.items():
        for pattern, core in _CORE:
            name = pattern.sub(core, name)
        if name not in _TIED or said["untie_embeddings_and_output_weights"]:
            found[name] = ref
    return found


def _llama(said: Mapping[str, Any], tensors: Tensors) -> Known:
    qkv_bias, qk_norm = bool(said["add_qkv_bias"]), bool(said["qk_layernorm"])
    if qkv_bias and qk_norm:
        raise _Other
    shape = _Shape.of(said, tensors)
    place = {
        "self_attention.linear_proj.weight": "self_attn.o_proj.weight",
        "mlp.linear_fc2.weight": "mlp.down_proj.weight",
        "input_layernorm.weight": "input_layernorm.weight",
        "pre_mlp_layernorm.weight": "post_attention_layernorm.weight",
        **({f"self_attention.{x}_layernorm.weight": f"self_attn.{x}_norm.weight" for x in "qk"} if qk_norm else {}),
    }
    top = {
        "embedding.word_embeddings.weight": "model.embed_tokens.weight",
        "decoder.final_layernorm.weight": "model.norm.weight",
        "output_layer.weight": "lm_head.weight",
    }
    split = ("self_attention.linear_qkv.weight", *(["self_attention.linear_qkv.bias"] if qkv_bias else []))

    def layer(rest: str, ref: TensorRef) -> Tensors:
        if rest in split:
            kind = rest.rpartition(".")[2]
            return {f"self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", shape.qkv(ref), strict=True)}
        if rest == "mlp.linear_fc1.weight":
            return {f"mlp.{name}_proj.weight": _half(ref, at) for at, name in enumerate(("gate", "up"))}
        return {place[rest]: ref}

    name = "Qwen2" if qkv_bias else "Qwen3" if qk_norm else "Llama"
    renamed = _renamed(tensors, top, layer, "model.layers.")
    config = {
        "num_key_value_heads": shape.groups,
        "intermediate_size": renamed["model.layers.0.mlp.down_proj.weight"].shape[1],
        "rms_norm_eps": _epsilon(said),
        "rope_parameters": _rotation(said),
        **({} if name == "Qwen2" else {"head_dim": shape.head}),
    }
    if name == "Qwen2" and shape.head * shape.heads != shape.hidden:
        raise _Other
    common = {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "hidden_size": shape.hidden}
    longest = {"max_position_embeddings": _number(said, "max_position_embeddings")}
    return _known(f"{name}ForCausalLM", f"{name}Config", renamed, {**config, **common, **longest})


def _gpt2(said: Mapping[str, Any], tensors: Tensors) -> Known:
    shape = _Shape.of(said, tensors)
    if shape.groups != shape.heads or shape.head * shape.heads != shape.hidden or said["qk_layernorm"]:
        raise _Other
    place = {"input_layernorm": "ln_1", "pre_mlp_layernorm": "ln_2", "self_attention.linear_proj": "attn.c_proj"}
    place |= {"mlp.linear_fc1": "mlp.c_fc", "mlp.linear_fc2": "mlp.c_proj", "self_attention.linear_qkv": "attn.c_attn"}
    top = {
        "embedding.word_embeddings.weight": "transformer.wte.weight",
        "embedding.position_embeddings.weight": "transformer.wpe.weight",
        **{f"decoder.final_layernorm.{kind}": f"transformer.ln_f.{kind}" for kind in ("weight", "bias")},
        "output_layer.weight": "lm_head.weight",
    }

    def layer(rest: str, ref: TensorRef) -> Tensors:
        name, _, kind = rest.rpartition(".")
        if name == "self_attention.linear_qkv":
            ref = pieces.concatenated(shape.qkv(ref), 0, rest)
        transposed = kind == "weight" and len(ref.shape) == 2  # GPT-2's layers have a column an output
        return {f"{place[name]}.{kind}": _transposed(ref) if transposed else ref}

    renamed = _renamed(tensors, top, layer, "transformer.h.")
    config = {
        **{"n_layer": shape.layers, "n_head": shape.heads, "n_embd": shape.hidden},
        "n_inner": renamed["transformer.h.0.mlp.c_fc.weight"].shape[1],
        "n_positions": renamed["transformer.wpe.weight"].shape[0],
        "layer_norm_epsilon": _epsilon(said),
        # With its bias in one kernel, Megatron computes the approximation by tanh.
        "activation_function": "gelu_new" if said["bias_gelu_fusion"] else "gelu",
    }
    return _known("GPT2LMHeadModel", "GPT2Config", renamed, config)


@dataclass(frozen=True)
class _Shape:
    """A model's sizes, which arguments and tensors have to agree on."""

    layers: int
    hidden: int
    heads: int
    groups: int
    head: int

    @classmethod
    def of(cls, said: Mapping[str, Any], tensors: Tensors) -> _Shape:
        layers = {int(match[1]) for name in tensors if (match := _LAYER.match(name))}
        hidden, heads = _number(said, "hidden_size"), _number(said, "num_attention_heads")
        groups = _number(said, "num_query_groups") if said.get("group_query_attention") else heads
        head = _number(said, "kv_channels") if "kv_channels" in said else hidden // heads
        if layers != set(range(_number(said, "num_layers"))) or heads % groups:
            raise _Other
        return cls(len(layers), hidden, heads, groups, head)

    def qkv(self, ref: TensorRef) -> tuple[TensorRef, TensorRef, TensorRef]:
        """Queries, keys and values from the rows of all, which lie group by group: its queries, a key, a value."""
        each = self.heads // self.groups
        if not ref.shape or ref.shape[0] != self.groups * (each + 2) * self.head:
            raise _Other

        def part(start: int, count: int) -> TensorRef:
            shape = (self.groups * count * self.head, *ref.shape[1:])

            def load() -> torch.Tensor:
                rows = ref.load().view(self.groups, each + 2, self.head, *ref.shape[1:])
                return rows[:, start : start + count].reshape(shape)

            return computed(ref.dtype_name, shape, load)

        return part(0, each), part(each, 1), part(each + 1, 1)


def _renamed(
    tensors: Tensors, top: Mapping[str, str], layer: Callable[[str, TensorRef], Tensors], prefix: str
) -> Tensors:
    """Every tensor under its new name. Raises `_Other` for one that has none."""
    found: Tensors = {}
    for name, ref in tensors.items():
        match = _LAYER.match(name)
        try:
            parts = {f"{prefix}{match[1]}.{to}": part for to, part in layer(match[2], ref).items()} if match else None
            found |= parts if parts is not None else {top[name]: ref}
        except KeyError:
            raise _Other from None
    return found


def _half(ref: TensorRef, at: int) -> TensorRef:
    rows = ref.shape[0] // 2
    return computed(ref.dtype_name, (rows, *ref.shape[1:]), lambda: ref.load()[at * rows : (at + 1) * rows])


def _transposed(ref: TensorRef) -> TensorRef:
    return computed(ref.dtype_name, (ref.shape[1], ref.shape[0]), lambda: ref.load().t().contiguous())


def _rotation(said: Mapping[str, Any]) -> dict[str, Any]:
    turns: dict[str, Any] = {"rope_type": "default", "rope_theta": float(said["rotary_base"])}
    if said["use_rope_scaling"]:  # Llama 3.1's
        turns |= {"rope_type": "llama3", "factor": float(said["rope_scaling_factor"])}
        turns |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return turns


def _epsilon(said: Mapping[str, Any]) -> float:
    value = said.get("norm_epsilon", said.get("layernorm_epsilon", 1e-5))
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise _Other


def _number(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 24:
        return value
    raise _Other


def _known(name: str, config: str, tensors: Tensors, said: Mapping[str, Any]) -> Known:
    words = next((ref.shape[0] for at, ref in tensors.items() if at.endswith(("embed_tokens.weight", "wte.weight"))), 0)
    head = {
        "vocab_size": words,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    return Known(ModelFactory(f"transformers.{name}", partial(_build, name, config, {**said, **head})), tensors)


def _build(name: str, config: str, said: Mapping[str, Any]) -> torch.nn.Module:
    transformers = library(f"{name} is")
    module: torch.nn.Module = getattr(transformers, name)(getattr(transformers, config)(**said))
    return module
