"""Megatron-LM's folders: however the ranks are cut, the model is the one that was cut."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint

from score.errors import LoadError, MalformedFile, NoWeights
from score.formats import registry
from score.inference import pipeline
from score.settings import Settings
from score.weights.opened import open_weights

LAYERS, HIDDEN, HEADS, GROUPS, HEAD, INNER, WORDS = 4, 16, 4, 2, 4, 24, 32
LLAMA = {
    "swiglu": True, "normalization": "RMSNorm", "add_bias_linear": False, "position_embedding_type": "rope",
    "group_query_attention": True, "num_query_groups": GROUPS, "untie_embeddings_and_output_weights": True,
}  # fmt: skip
# How a layer is cut: by rows, by columns, by the rows of each half.
CUTS = {"word_embeddings": 0, "output_layer": 0, "linear_qkv": 0, "linear_fc1": 0, "linear_proj": 1, "linear_fc2": 1}


def _state(kind: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    llama = kind == "llama"
    rows = (HEADS + 2 * GROUPS) * HEAD if llama else 3 * HIDDEN
    shapes = {"embedding.word_embeddings.weight": (WORDS, HIDDEN)}
    shapes |= (
        {"output_layer.weight": (WORDS, HIDDEN)} if llama else {"embedding.position_embeddings.weight": (16, HIDDEN)}
    )
    norms = ["decoder.final_layernorm"]
    for at in range(LAYERS):
        layer = f"decoder.layers.{at}"
        norms += [f"{layer}.input_layernorm", f"{layer}.pre_mlp_layernorm"]
        each = {"self_attention.linear_qkv": (rows, HIDDEN), "self_attention.linear_proj": (HIDDEN, HIDDEN)}
        each |= {"mlp.linear_fc1": ((2 if llama else 1) * INNER, HIDDEN), "mlp.linear_fc2": (HIDDEN, INNER)}
        for name, shape in each.items():
            shapes[f"{layer}.{name}.weight"] = shape
            if not llama:
                shapes[f"{layer}.{name}.bias"] = shape[:1]  # type: ignore[assignment]
    for norm in norms:
        shapes |= {f"{norm}.{part}": (HIDDEN,) for part in (["weight"] if llama else ["weight", "bias"])}  # type: ignore[misc]
    return {name: torch.randn(shape) / 4 for name, shape in shapes.items()}


def _cut(name: str, value: torch.Tensor, tensor: int, count: int, kind: str) -> torch.Tensor:
    dimension = CUTS.get(name.split(".")[-2])
    if dimension is None or (dimension == 1 and value.dim() == 1):
        return value
    if "linear_fc1" in name and kind == "llama":
        return torch.cat([half.chunk(count)[tensor] for half in value.chunk(2)])
    return value.chunk(count, dimension)[tensor].clone()


def _write(folder: Path, kind: str, tensors: int, stages: int, **said: Any) -> dict[str, torch.Tensor]:
    state, each = _state(kind), LAYERS // stages
    args = {
        "num_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "kv_channels": HEAD,
        "max_position_embeddings": 16, "norm_epsilon": 1e-5, "tensor_model_parallel_size": tensors,
        "pipeline_model_parallel_size": stages, **(LLAMA if kind == "llama" else {}), **said,
    }  # fmt: skip
    for stage in range(stages):
        for tensor in range(tensors):
            held = {}
            for name, value in state.items():
                parts, last = name.split("."), stage == stages - 1
                if parts[1] == "layers":
                    if int(parts[2]) // each != stage:
                        continue
                    parts[2] = str(int(parts[2]) % each)
                elif (stage != 0) if parts[0] == "embedding" else not last:
                    continue
                held[".".join(parts)] = _cut(name, value, tensor, tensors, kind)
            place = folder / "iter_0000007" / (f"mp_rank_{tensor:02}" + (f"_{stage:03}" if stages > 1 else ""))
            place.mkdir(parents=True)
            saved = {"args": argparse.Namespace(**args), "checkpoint_version": 3.0, "model": held}
            torch.save(saved, place / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("7")
    return state


def _answer(folder: Path) -> tuple[str, torch.Tensor]:
    served = pipeline.load_model(Settings.load(folder, device="cpu"))
    with torch.inference_mode():
        return served.report.architecture, served.module(torch.arange(8)[None] * 3).logits


@pytest.mark.parametrize(("kind", "name"), [("llama", "LlamaForCausalLM"), ("gpt2", "GPT2LMHeadModel")])
def test_however_it_is_cut_it_is_the_same_model(kind: str, name: str, tmp_path: Path) -> None:
    grids = [(1, 1), (2, 1), (1, 4), (2, 2)]
    for tensors, stages in grids:
        _write(tmp_path / f"{tensors}x{stages}", kind, tensors, stages)
    (found, expected), *others = (_answer(tmp_path / f"{tensors}x{stages}") for tensors, stages in grids)
    assert found == f"transformers.{name}"
    for _, logits in others:
        assert torch.equal(logits, expected)


def test_other_arguments_leave_megatrons_names(tmp_path: Path) -> None:
    state = _write(tmp_path, "llama", 2, 2, rotary_interleaved=True)
    opened = registry.open_checkpoint(tmp_path)
    assert {name: ref.shape for name, ref in opened.tree.items()} == {n: tuple(v.shape) for n, v in state.items()}
    assert all(torch.equal(opened.tree[name].load(), value) for name, value in state.items())
    with pytest.raises(LoadError, match="no architecture fits"):
        pipeline.load_model(Settings.load(tmp_path, device="cpu"))


def _torch_dist(folder: Path, kind: str, **said: Any) -> dict[str, torch.Tensor]:
    """As Megatron's core saves it since 0.8: a weight's layers behind each other, the optimizer's moments beside."""
    state = _write(folder / "ranks", kind, 1, 1, **said)
    saved = torch.load(folder / "ranks" / "iter_0000007" / "mp_rank_00" / "model_optim_rng.pt", weights_only=False)
    stacks: dict[str, list[torch.Tensor]] = {}
    for name, value in saved.pop("model").items():
        parts = name.split(".")
        stacks.setdefault(".".join(parts[:2] + parts[3:]) if parts[1] == "layers" else name, []).append(value)
    held = {name: torch.stack(values) if ".layers." in name else values[0] for name, values in stacks.items()}
    held |= {f"optimizer.state.exp_avg.{name}": torch.rand(value.shape) for name, value in held.items()}
    place = folder / "torch_dist" / "iter_0000007"
    place.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a process group that is not there
        checkpoint.save(held, checkpoint_id=str(place), no_dist=True)
    torch.save(saved, place / "common.pt")
    (folder / "torch_dist" / "latest_checkpointed_iteration.txt").write_text("7")
    return state


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_distributed_checkpoint_is_the_same_model(kind: str, tmp_path: Path) -> None:
    _torch_dist(tmp_path, kind)
    (name, wanted), (again, found) = _answer(tmp_path / "ranks"), _answer(tmp_path / "torch_dist")
    assert name == again
    assert torch.equal(wanted, found)


def test_a_distributed_checkpoint_of_another_kind_has_megatrons_names(tmp_path: Path) -> None:
    state = _torch_dist(tmp_path, "llama", rotary_interleaved=True)
    weights = open_weights(Settings.load(tmp_path / "torch_dist")).weights
    assert weights is not None
    assert set(weights.tensors) == set(state)
    assert all(torch.equal(weights.tensors[name].load(), value) for name, value in state.items())


def test_without_a_rank_it_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "llama", 2, 2)
    (tmp_path / "iter_0000007" / "mp_rank_01_001" / "model_optim_rng.pt").unlink()
    with pytest.raises(MalformedFile, match="rank 1 of stage 1"):
        registry.open_checkpoint(tmp_path)


def test_experts_of_several_ranks_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "llama", 2, 1, expert_model_parallel_size=2)
    with pytest.raises(NoWeights, match="experts"):
        registry.open_checkpoint(tmp_path)
