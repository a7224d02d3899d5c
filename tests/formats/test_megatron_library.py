"""Megatron's own models, cut and saved by processes with gloo, against what they answered themselves.

`make test-megatron` installs megatron_core into build/megatron. It is written for GPUs; here it is told that the CPU is
one.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from score.inference import pipeline
from score.settings import Settings

pytestmark = pytest.mark.megatron
LIBRARY = Path(__file__).parents[2] / "build" / "megatron"

WRITES = """
import argparse, contextlib, pathlib, sys
import torch
from torch import distributed
from torch.nn import functional as F

torch.cuda.current_device = lambda: "cpu"
torch.cuda.synchronize = lambda *_: None
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
from megatron.core.transformer.transformer_config import TransformerConfig

CudaRNGStatesTracker.fork = lambda self, name="": contextlib.nullcontext()
kind, rank, world, port, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], pathlib.Path(sys.argv[5])
distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
torch.manual_seed(3)
gpt2, words = kind == "gpt2", 64
args = {
    "num_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "kv_channels": 8, "max_position_embeddings": 32,
    "norm_epsilon": 1e-5, "ffn_hidden_size": 48, "tensor_model_parallel_size": world, "bias_gelu_fusion": False,
    "pipeline_model_parallel_size": 1,
}
if not gpt2:
    args |= {
        "swiglu": True, "normalization": "RMSNorm", "add_bias_linear": False, "position_embedding_type": "rope",
        "group_query_attention": True, "num_query_groups": 2, "untie_embeddings_and_output_weights": True,
        "add_qkv_bias": kind == "qwen2", "qk_layernorm": kind == "qwen3",
    }
config = TransformerConfig(
    num_layers=3, hidden_size=32, num_attention_heads=4, kv_channels=8, ffn_hidden_size=48,
    num_query_groups=4 if gpt2 else 2, gated_linear_unit=not gpt2, activation_func=F.gelu if gpt2 else F.silu,
    normalization="LayerNorm" if gpt2 else "RMSNorm", add_bias_linear=gpt2, add_qkv_bias=kind == "qwen2",
    qk_layernorm=kind == "qwen3", layernorm_epsilon=1e-5, use_cpu_initialization=True, params_dtype=torch.float32,
    attention_dropout=0.0, hidden_dropout=0.0, tensor_model_parallel_size=world, bias_activation_fusion=False,
    masked_softmax_fusion=False, persist_layer_norm=False,
)
spec = get_gpt_layer_local_spec(qk_layernorm=kind == "qwen3", normalization=config.normalization)
model = GPTModel(
    config, spec, words, 32, position_embedding_type="learned_absolute" if gpt2 else "rope",
    share_embeddings_and_output_weights=gpt2, parallel_output=False,
).eval()
for name, value in model.named_parameters():  # norms and biases that show whether they are read
    if "norm" in name or name.endswith("bias"):
        cut = getattr(value, "tensor_model_parallel", False)
        torch.manual_seed(len(name) + (rank if cut else 0))
        with torch.no_grad():
            value.add_(torch.randn_like(value) / 8)
ids = torch.arange(12)[None] * 5 % words
with torch.inference_mode():
    mask = torch.ones(1, 1, 12, 12).tril() < 0.5
    logits = model(ids, torch.arange(12)[None], mask)
place = out / "model" / "iter_0000100" / f"mp_rank_{rank:02}"
place.mkdir(parents=True)
saved = {"args": argparse.Namespace(**args), "checkpoint_version": 3.0, "iteration": 100, "model": model.state_dict()}
torch.save(saved, place / "model_optim_rng.pt")
again = out / "torch_dist" / "iter_0000100"
if rank == 0:
    again.mkdir(parents=True)
distributed.barrier()
optimizer = model.sharded_state_dict()
for each in optimizer.values():  # as the optimizer's moments are called, and lie beside the weights
    each.key = f"optimizer.state.exp_avg.{each.key}"
saved |= {"model": model.sharded_state_dict(), "optimizer": optimizer}
dist_checkpointing.save(saved, str(again))
if rank == 0:
    (out / "torch_dist" / "latest_checkpointed_iteration.txt").write_text("100")
    (out / "model" / "latest_checkpointed_iteration.txt").write_text("100")
    torch.save({"ids": ids, "logits": logits}, out / "wanted.pt")
distributed.barrier()
"""


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gpt2", "GPT2LMHeadModel"),
        ("llama", "LlamaForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
    ],
)
def test_it_answers_as_megatron_did(kind: str, name: str, world: int, tmp_path: Path) -> None:
    if not LIBRARY.is_dir():
        pytest.skip("make test-megatron installs the library")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WRITES, kind, str(rank), str(world), port, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * world
    wanted = torch.load(tmp_path / "wanted.pt")
    for folder in ("model", "torch_dist"):
        served = pipeline.load_model(Settings.load(tmp_path / folder, device="cpu"))
        assert served.report.architecture == f"transformers.{name}"
        with torch.inference_mode():
            found = served.module(wanted["ids"]).logits
        torch.testing.assert_close(found, wanted["logits"], rtol=0, atol=1e-5)
