"""`llama-consolidated`: Llama as Meta publishes it: `params.json`, and `consolidated.00.pth` to `consolidated.0N.pth`,
whose tensors are cut among as many GPUs. Mistral's `consolidated.safetensors` is the same, in one.

Weights are put together under the names that transformers has for them; of queries and keys the rows are in the order
that its rotary embedding wants. Source: Touvron et al. 2023, and the names and shapes in the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from score.errors import MalformedFile
from score.formats import safetensors, torch_bin_sharded
from score.formats._io.folder import json_file
from score.formats._pickle import pieces
from score.formats._pickle.inert import settled
from score.formats._transformers import library
from score.formats.base import Checkpoint, DescribedWeights, ModelFactory, TensorRef, computed
from score.formats.probe import Probe

NAME = "llama-consolidated"
PRIORITY = 0
SERVABLE = True
_SHARD = re.compile(r"consolidated\.(\d\d)\.pth\Z")
_WHOLE = "consolidated.safetensors"
MOST_SHARDS = 64
# Meta's name, the one of transformers, and the dimension that is cut: None where each GPU has all.
_NAMES: dict[str, tuple[str, int | None]] = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", None),  # either dimension, as the generation has it
    "norm.weight": ("model.norm.weight", None),
    "output.weight": ("lm_head.weight", 0),
    "attention.wq.weight": ("self_attn.q_proj.weight", 0),
    "attention.wk.weight": ("self_attn.k_proj.weight", 0),
    "attention.wv.weight": ("self_attn.v_proj.weight", 0),
    "attention.wo.weight": ("self_attn.o_proj.weight", 1),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", 0),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", 1),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", 0),
    "attention_norm.weight": ("input_layernorm.weight", None),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
}
_LAYER = re.compile(r"layers\.(\d{1,4})\.(.+)\Z")
_COMPUTED = ("rope.freqs",)
# What params.json may say; another word could mean another model.
_KNOWN = frozenset(
    (
        *("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps"),
        *("rope_theta", "use_scaled_rope", "rope_scaling_factor", "head_dim", "hidden_dim", "max_seq_len"),
        "max_batch_size",
    )
)


def detect(probe: Probe) -> bool:
    if not probe.is_dir or not (probe.path / "params.json").is_file():
        return False
    return (probe.path / "consolidated.00.pth").is_file() or (probe.path / _WHOLE).is_file()


def open(path: Path, read: str) -> Checkpoint:
    """Raises `MalformedFile` for a missing shard, for names and shapes that are not Llama's, and for a configuration
    that says something that is not known."""
    params = json_file(path / "params.json")
    if unknown := sorted(name for name, value in params.items() if name not in _KNOWN and value is not None):
        raise MalformedFile(f"{path.name}: params.json says {', '.join(unknown)[:200]}, which is not known of Llama")
    shards, unsafe = _shards(path, read)
    dim, heads = _number(params, "dim"), _number(params, "n_heads")
    pairs = {"wq": heads, "wk": _number(params, "n_kv_heads", heads)}
    tree: dict[str, TensorRef] = {}
    for name in shards[0]:
        if name in _COMPUTED:
            continue
        layer = _LAYER.match(name)
        known = _NAMES.get(layer[2] if layer else name)
        if known is None or (layer is None) == (known[0].startswith(("self_attn.", "mlp.", "input_", "post_"))):
            raise MalformedFile(f"{path.name}: a tensor is named {name!r:.100}, which is none of Llama's")
        parts = [shard[name] for shard in shards]
        along = _cut(name, known[1], parts, dim)
        whole = parts[0] if along is None else pieces.concatenated(parts, along, f"{path.name}: {name}")
        kind = name.split(".")[-2]
        if kind in pairs:
            whole = in_halves(whole, pairs[kind], name)
        tree[f"model.layers.{layer[1]}.{known[0]}" if layer else known[0]] = whole
    model = ModelFactory("transformers.LlamaForCausalLM", partial(_build, params, dict(tree)))
    said = {"shards": len(shards), **params}
    return DescribedWeights(NAME, path, tree, unsafe, said, model=model)


def _shards(path: Path, read: str) -> tuple[list[dict[str, TensorRef]], tuple[str, ...]]:
    files = sorted(each for each in path.iterdir() if _SHARD.match(each.name) and not each.is_symlink())
    if files:
        numbers = [int(each.name[13:15]) for each in files]
        if numbers != list(range(len(files))) or len(files) > MOST_SHARDS:
            raise MalformedFile(f"{path.name}: shards {numbers}, where they go from 0 on without a gap")
        opened = [torch_bin_sharded.open_shard(each, read) for each in files]
    else:
        opened = [safetensors.open(path / _WHOLE, read)]
    shards = []
    for each in opened:
        held = each.tree.items() if isinstance(each.tree, dict) else ()
        shards.append({str(key): ref for key, value in held if isinstance(ref := settled(value), TensorRef)})
    if not shards[0] or any(shard.keys() != shards[0].keys() for shard in shards):
        raise MalformedFile(f"{path.name}: the shards hold different tensors")
    return shards, tuple(dict.fromkeys(name for each in opened for name in each.unsafe_globals))


def _number(params: Mapping[str, Any], name: str, otherwise: int | None = None) -> int:
    value = params.get(name, otherwise)
    value = otherwise if value is None else value
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 24:
        return value
    raise MalformedFile(f"params.json says {value!r:.60} for {name}")


def _cut(name: str, dimension: int | None, parts: list[TensorRef], dim: int) -> int | None:
    """Along what a tensor is cut. Embeddings are by their numbers in older generations, by words in newer."""
    if name == "tok_embeddings.weight" and len(parts) > 1:
        return 0 if len(parts[0].shape) == 2 and parts[0].shape[1] == dim else 1
    return dimension


def in_halves(ref: TensorRef, heads: int, name: str) -> TensorRef:
    """The rows of each head with those of even number first: rotated are pairs of neighbours here, halves there."""
    if not ref.shape or ref.shape[0] % (2 * heads):
        raise MalformedFile(f"{name} has the shape {list(ref.shape)}, which {heads} heads do not divide")

    def load() -> torch.Tensor:
        rows, *columns = ref.shape
        return ref.load().view(heads, rows // heads // 2, 2, *columns).transpose(1, 2).reshape(ref.shape)

    return computed(ref.dtype_name, ref.shape, load)


def _build(params: Mapping[str, Any], tree: Mapping[str, TensorRef]) -> torch.nn.Module:
    transformers = library("Llama is")
    embeddings, up = tree["model.embed_tokens.weight"], tree["model.layers.0.mlp.up_proj.weight"]
    heads = _number(params, "n_heads")
    head = _number(params, "head_dim", _number(params, "dim") // heads)
    turns: dict[str, Any] = {"rope_type": "default", "rope_theta": float(params.get("rope_theta", 10000.0))}
    if params.get("use_scaled_rope"):
        turns |= {"rope_type": "llama3", "factor": float(params.get("rope_scaling_factor", 8))}
        turns |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    scaled = bool(params.get("use_scaled_rope"))
    config = transformers.LlamaConfig(
        vocab_size=embeddings.shape[0],
        hidden_size=_number(params, "dim"),
        intermediate_size=up.shape[0],
        num_hidden_layers=_number(params, "n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=_number(params, "n_kv_heads", heads),
        head_dim=head,
        rms_norm_eps=float(params.get("norm_eps", 1e-5)),
        rope_parameters=turns,
        max_position_embeddings=131072 if scaled else 8192,
        tie_word_embeddings="lm_head.weight" not in tree,
    )
    module: torch.nn.Module = transformers.LlamaForCausalLM(config)
    return module
