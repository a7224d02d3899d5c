"""The classes of transformers that GGUF's architectures are, what each says of itself, and its tensors' names.

Strict on purpose: a key that is not known could mean another computation, and then the model is refused by that key.
Sources: gguf.md, "Standardized key-value pairs" and "Standardized tensor names".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from score.errors import ArchitectureBroken
from score.formats._gguf import tokenizer
from score.formats._gguf.header import Header
from score.formats._transformers import library
from score.formats.base import ModelFactory, TensorRef

WAY_OUT = "Take the original safetensors, or serve it with llama.cpp."
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = re.compile(r"blk\.(\d{1,4})\.([a-z_]+)\.(weight|bias)\Z")
_PARTS = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
FREQUENCIES = "rope_freqs.weight"  # [head / 2], what each frequency of the rotary embedding is divided by
# What a file may say of its architecture.
_KNOWN = frozenset(
    (
        *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
        *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
        *("attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scale_linear"),
        *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
        *("rope.scaling.finetuned", "expert_count", "expert_used_count"),
    )
)


@dataclass(frozen=True)
class Class:
    """A class of transformers. `pairs` says that its queries and keys are rotated in pairs of neighbours in the file,
    where transformers rotates halves."""

    name: str
    pairs: bool = False


CLASSES = {
    "llama": Class("Llama", pairs=True),
    "qwen2": Class("Qwen2"),
    "qwen3": Class("Qwen3"),
}


def renamed(name: str) -> str | None:
    """transformers' name for a tensor; None for one that is none of the layers'."""
    if name in _WHOLE:
        return _WHOLE[name]
    layer = _LAYER.match(name)
    if layer is None or layer[2] not in _PARTS:
        return None
    return f"model.layers.{layer[1]}.{_PARTS[layer[2]]}.{layer[3]}"


def heads_of(header: Header, name: str) -> int | None:
    """How many heads the rows of a tensor are to be put in halves for; None where they are as they should be."""
    layer = _LAYER.match(name)
    if not CLASSES[header.architecture].pairs or layer is None or layer[2] not in ("attn_q", "attn_k"):
        return None
    said = header.own()
    count = _number(said, "attention.head_count")
    return count if layer[2] == "attn_q" else _number(said, "attention.head_count_kv", count)


def factory(header: Header, tree: Mapping[str, TensorRef]) -> ModelFactory:
    """How the file's class is built. What keeps it from being built is said when it is tried."""
    known = CLASSES.get(header.architecture)
    name = f"transformers.{known.name}ForCausalLM" if known else f"gguf.{header.architecture}"[:100]
    return ModelFactory(name, lambda: _build(header, tree))


def _build(header: Header, tree: Mapping[str, TensorRef]) -> torch.nn.Module:
    known = CLASSES.get(header.architecture)
    if known is None:
        raise ArchitectureBroken(
            f"the architecture {header.architecture!r:.60} of a GGUF model is not known here, only "
            f"{', '.join(CLASSES)}",
            hint=WAY_OUT,
        )
    transformers = library("GGUF models are")
    cls = getattr(transformers, f"{known.name}ForCausalLM", None)
    if cls is None:
        raise ArchitectureBroken(f"transformers {transformers.__version__} has no {known.name}ForCausalLM")
    module: torch.nn.Module = cls(getattr(transformers, f"{known.name}Config")(**_config(header, tree)))
    return module


def _config(header: Header, tree: Mapping[str, TensorRef]) -> dict[str, Any]:
    said = header.own()
    if unknown := sorted(said.keys() - _KNOWN):
        raise _refused(f"says {', '.join(unknown)[:200]}, which is not known of {header.architecture}")
    if said.get("expert_count"):
        raise _refused("is a mixture of experts")
    heads, width = _number(said, "attention.head_count"), _number(said, "embedding_length")
    head = _number(said, "attention.key_length", width // heads)
    if _number(said, "attention.value_length", head) != head or _number(said, "rope.dimension_count", head) != head:
        raise _refused("has values of another length than its keys, or rotates a part of them")
    embedding = tree.get("model.embed_tokens.weight")
    if embedding is None:
        raise _refused("has no token_embd.weight")
    if _number(said, "vocab_size", embedding.shape[0]) != embedding.shape[0]:
        raise _refused(f"says {said['vocab_size']} words, and embeds {embedding.shape[0]}")
    longest = _number(said, "context_length", 2048)
    biased = {"attention_bias": "model.layers.0.self_attn.q_proj.bias" in tree}
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "intermediate_size": _number(said, "feed_forward_length"),
        "num_hidden_layers": _number(said, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(said, "attention.head_count_kv", heads),
        "head_dim": head,
        "rms_norm_eps": _real(said, "attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": longest,
        "rope_parameters": _turns(header, said, longest),
        "tie_word_embeddings": "lm_head.weight" not in tree,
        **_ends(header),
        **({} if header.architecture == "qwen2" else biased),
        **({"mlp_bias": "model.layers.0.mlp.up_proj.bias" in tree} if header.architecture == "llama" else {}),
    }


def _ends(header: Header) -> dict[str, Any]:
    """The tokens that begin, end and pad a text; none where the file says none."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found: dict[str, Any] = {name: tokenizer.special(header, said) for name, said in names.items()}
    turn = tokenizer.special(header, "eot")
    ends = [each for each in dict.fromkeys((found["eos_token_id"], turn)) if each is not None]
    return found | {"eos_token_id": ends if len(ends) > 1 else next(iter(ends), None)}


def _turns(header: Header, said: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """The rotary embedding, as transformers has it."""
    base: dict[str, Any] = {"rope_theta": _real(said, "rope.freq_base", 10000.0)}
    kind = said.get("rope.scaling.type", "linear" if "rope.scale_linear" in said else "none")
    if FREQUENCIES in header.tensors:
        if kind != "none":
            raise _refused(f"has {FREQUENCIES} and a scaling of the kind {kind!r:.40} too")
        factors = header.values[FREQUENCIES]
        # The one kind that takes a factor for each frequency; the same ones, whatever the text's length.
        factors = {"short_factor": factors, "long_factor": factors, "attention_factor": 1.0}
        return {"rope_type": "longrope", **factors, "original_max_position_embeddings": longest, **base}
    if kind == "linear":
        factor = _real(said, "rope.scaling.factor", _real(said, "rope.scale_linear", 1.0))
        return {"rope_type": "linear", "factor": factor, **base} if factor != 1 else {"rope_type": "default", **base}
    if kind != "none":
        raise _refused(f"scales its rotary embedding by {kind!r:.40}")
    return {"rope_type": "default", **base}


def _refused(why: str) -> ArchitectureBroken:
    return ArchitectureBroken(f"the GGUF model {why}", hint=WAY_OUT)


def _number(said: Mapping[str, Any], name: str, otherwise: int | None = None) -> int:
    value = said.get(name, otherwise)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31:
        return value
    raise _refused(f"says {value!r:.60} for {name}")


def _real(said: Mapping[str, Any], name: str, otherwise: float | None = None) -> float:
    value = said.get(name, otherwise)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"):
        return float(value)
    raise _refused(f"says {value!r:.60} for {name}")
