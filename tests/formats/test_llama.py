"""Llama as Meta publishes it, against the network as it is described, with rotations of neighbouring numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import score
from score.errors import LoadError, MalformedFile
from score.formats import registry

PARAMS = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 48, "multiple_of": 8, "norm_eps": 1e-5}
HIDDEN = 40
ROWS = ("wq", "wk", "wv", "w1", "w3", "output")


def state(**params: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    said = {**PARAMS, **params}
    dim, kv = said["dim"], said["dim"] // said["n_heads"] * said["n_kv_heads"]
    shapes = {"tok_embeddings": (said["vocab_size"], dim), "output": (said["vocab_size"], dim)}
    for at in range(said["n_layers"]):
        each = {
            "attention.wq": (dim, dim),
            "attention.wk": (kv, dim),
            "attention.wv": (kv, dim),
            "attention.wo": (dim, dim),
        }
        each |= {"feed_forward.w1": (HIDDEN, dim), "feed_forward.w2": (dim, HIDDEN), "feed_forward.w3": (HIDDEN, dim)}
        shapes |= {f"layers.{at}.{name}": shape for name, shape in each.items()}
    made = {f"{name}.weight": torch.randn(shape) / 4 for name, shape in shapes.items()}
    norms = [
        "norm",
        *(f"layers.{at}.{name}" for at in range(said["n_layers"]) for name in ("attention_norm", "ffn_norm")),
    ]
    return made | {f"{name}.weight": torch.rand(dim) + 0.5 for name in norms}


def reference(weights: dict[str, torch.Tensor], tokens: torch.Tensor, theta: float = 10000.0) -> torch.Tensor:
    """Scores for the next word after each [N, T]: Touvron et al. 2023, with grouped queries (Ainslie et al. 2023)."""
    dim, heads, groups = PARAMS["dim"], PARAMS["n_heads"], PARAMS["n_kv_heads"]
    size = int(dim // heads)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + PARAMS["norm_eps"]) * weights[f"{name}.weight"]

    def turned(x: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(torch.arange(x.shape[1]).float(), theta ** -(torch.arange(0, size, 2).float() / size))
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(3)

    x = weights["tok_embeddings.weight"][tokens]
    rows, length = tokens.shape
    for at in range(int(PARAMS["n_layers"])):
        y = norm(x, f"layers.{at}.attention_norm")
        q, k, v = (
            (y @ weights[f"layers.{at}.attention.{name}.weight"].T).view(rows, length, -1, size)
            for name in ("wq", "wk", "wv")
        )
        q, k = turned(q), turned(k)
        k, v = (each.repeat_interleave(int(heads // groups), 2) for each in (k, v))
        found = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v)), is_causal=True)
        x = x + found.transpose(1, 2).reshape(rows, length, -1) @ weights[f"layers.{at}.attention.wo.weight"].T
        y = norm(x, f"layers.{at}.ffn_norm")
        gate = F.silu(y @ weights[f"layers.{at}.feed_forward.w1.weight"].T)
        up = y @ weights[f"layers.{at}.feed_forward.w3.weight"].T
        x = x + (gate * up) @ weights[f"layers.{at}.feed_forward.w2.weight"].T
    return norm(x, "norm") @ weights["output.weight"].T


def written(folder: Path, shards: int, *, by_words: bool = True, **params: Any) -> dict[str, torch.Tensor]:
    """As many files as there were GPUs, each with its cut of every matrix."""
    weights = state(**params)
    (folder / "params.json").write_text(json.dumps({**PARAMS, **params, "vocab_size": -1} if params else PARAMS))
    for rank in range(shards):
        cut = {}
        for name, value in weights.items():
            kind = name.split(".")[-2]
            along = 0 if kind in ROWS or (kind == "tok_embeddings" and by_words) else 1
            cut[name] = value.clone() if value.ndim == 1 else value.chunk(shards, along)[rank].clone()
        torch.save({**cut, "rope.freqs": torch.ones(4)}, folder / f"consolidated.{rank:02}.pth")
    return weights


TOKENS = torch.tensor([[1, 7, 40, 3, 9], [5, 5, 2, 47, 0]])


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("by_words", [False, True])
@torch.no_grad()
def test_it_computes_what_is_described(shards: int, by_words: bool, tmp_path: Path) -> None:
    wanted = reference(written(tmp_path, shards, by_words=by_words), TOKENS)
    assert registry.detect(tmp_path) == "llama-consolidated"
    found = score.load(tmp_path)(TOKENS).logits
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_file_of_safetensors_is_the_same(tmp_path: Path) -> None:
    weights = state()
    save_file(weights, tmp_path / "consolidated.safetensors")
    (tmp_path / "params.json").write_text(json.dumps({**PARAMS, "hidden_dim": HIDDEN, "rope_theta": 50000.0}))
    found = score.load(tmp_path)(TOKENS).logits
    assert torch.allclose(found, reference(weights, TOKENS, 50000.0), rtol=1e-4, atol=1e-4)


def test_rotations_are_scaled_where_that_is_said(tmp_path: Path) -> None:
    written(tmp_path, 1, use_scaled_rope=True, rope_theta=500000.0)
    rope = score.load(tmp_path).config.rope_parameters  # type: ignore[union-attr]
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("llama3", 8.0, 500000.0)


@pytest.mark.parametrize(
    "params", [{"moe": {}}, {"dim": "many"}, {"n_heads": 0}, {"n_heads": 5}, {"vision_chunk_size": 3}]
)
def test_a_configuration_that_is_not_llamas_is_refused(params: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path, 2)
    (tmp_path / "params.json").write_text(json.dumps({**PARAMS, **params}))
    with pytest.raises(LoadError, match=r"params\.json|heads"):
        score.load(tmp_path)


def test_a_missing_shard_and_strange_tensors_are_refused(tmp_path: Path) -> None:
    written(tmp_path, 4)
    (tmp_path / "consolidated.02.pth").rename(tmp_path / "consolidated.04.pth")
    with pytest.raises(MalformedFile, match="without a gap"):
        registry.open_checkpoint(tmp_path)
    (tmp_path / "consolidated.04.pth").rename(tmp_path / "consolidated.02.pth")
    torch.save({"layers.0.experts.w1.weight": torch.ones(2)}, tmp_path / "consolidated.02.pth")
    with pytest.raises(MalformedFile, match="different tensors"):
        registry.open_checkpoint(tmp_path)
    for rank in range(4):
        torch.save({"layers.0.experts.w1.weight": torch.ones(2)}, tmp_path / f"consolidated.{rank:02}.pth")
    with pytest.raises(MalformedFile, match=r"none of Llama's"):
        registry.open_checkpoint(tmp_path)
