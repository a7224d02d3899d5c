"""Quantised weights as the numbers that they stand for: against packers written by the formats' descriptions.

With the libraries that write them: test_quantisation_libraries.py.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import score
from score.errors import QuantisedWeights
from score.inference import pipeline
from score.settings import Settings
from score.weights.opened import open_weights
from score.weights.quantisation import packing
from tests.weights import test_quantised

State = dict[str, torch.Tensor]


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers [..., K] one after the other from the lowest bit, as int32[..., K * bits / 32]."""
    rows = values.reshape(-1, values.shape[-1])
    words = []
    for row in rows:
        whole = sum(int(value) << (at * bits) for at, value in enumerate(row))
        raw = whole.to_bytes(len(row) * bits // 8, "little")
        words.append(np.frombuffer(raw, "<u4").astype(np.int64))
    return np.stack(words).astype(np.uint32).view(np.int32).reshape(*values.shape[:-1], -1)


def gptq(
    weight: torch.Tensor, bits: int, size: int, *, newer: bool = False, shuffled: bool = False
) -> tuple[State, torch.Tensor]:
    """A layer's parts, and the weights that they stand for."""
    outputs, inputs = weight.shape
    generator = np.random.default_rng(0)
    count = inputs // size
    group = np.repeat(np.arange(count), size)
    group = generator.permutation(group) if shuffled else group
    scales = (generator.random((count, outputs)) + 0.5).astype(np.float16)
    points = generator.integers(1, 1 << bits, (count, outputs))
    values = generator.integers(0, 1 << bits, (outputs, inputs))
    real = torch.from_numpy(scales.astype(np.float32)[group].T * (values - points[group].T))
    return {
        "qweight": torch.from_numpy(np.ascontiguousarray(packed(values, bits).T)),
        "qzeros": torch.from_numpy(packed(points - (0 if newer else 1), bits)),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(group.astype(np.int32)),
    }, real


def awq(weight: torch.Tensor, size: int) -> tuple[State, torch.Tensor]:
    outputs, inputs = weight.shape
    generator = np.random.default_rng(0)
    count = inputs // size
    scales = (generator.random((count, outputs)) + 0.5).astype(np.float16)
    points, values = generator.integers(0, 16, (count, outputs)), generator.integers(0, 16, (inputs, outputs))
    real = (values - np.repeat(points, size, 0)) * np.repeat(scales.astype(np.float32), size, 0)

    def ordered(given: np.ndarray) -> torch.Tensor:
        eights = given.reshape(len(given), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        return torch.from_numpy(packed(eights.reshape(len(given), -1), 4))

    parts = {"qweight": ordered(values), "qzeros": ordered(points), "scales": torch.from_numpy(scales)}
    return parts, torch.from_numpy(real.T.copy()).float()


def fp8(weight: torch.Tensor, block: tuple[int, int] | None) -> tuple[State, torch.Tensor]:
    small = weight.to(torch.float8_e4m3fn)
    if block is None:
        scale = torch.rand(weight.shape[0], 1) + 0.5
        return {"weight": small, "weight_scale": scale}, small.float() * scale
    counts = [-(-side // size) for side, size in zip(weight.shape, block, strict=True)]
    scale = torch.rand(*counts) + 0.5
    spread = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return {"weight": small, "weight_scale_inv": scale}, small.float() * spread[: weight.shape[0], : weight.shape[1]]


CONFIG = {
    "vocab_size": 60, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    **{
        f"GPTQ, {bits} bits": (
            lambda weight, bits=bits: gptq(weight, bits, 32),
            {"quant_method": "gptq", "bits": bits, "group_size": 32},
        )
        for bits in (2, 3, 4, 8)
    },
    "GPTQ, in the order of activations": (
        lambda weight: gptq(weight, 4, 32, shuffled=True), {"quant_method": "gptq", "bits": 4, "desc_act": True}
    ),
    "GPTQ, the newer format": (
        lambda weight: gptq(weight, 4, 32, newer=True),
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"},
    ),
    "AWQ": (lambda weight: awq(weight, 32), {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}),
    "FP8 by rows": (lambda weight: fp8(weight, None), {"quant_method": "fbgemm_fp8"}),
    "FP8 by blocks": (
        lambda weight: fp8(weight, (16, 48)), {"quant_method": "fp8", "weight_block_size": [16, 48]}
    ),
}  # fmt: skip


def made(folder: Path, way: str, dtype: torch.dtype = torch.float16) -> State:
    """A folder of transformers' whose linear layers are quantised; the state that they stand for."""
    torch.manual_seed(1)
    quantise, said = WAYS[way]
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).to(dtype)
    model.save_pretrained(folder)
    state, real = dict(load_file(folder / "model.safetensors")), {}
    for name in list(state):
        if name.endswith("_proj.weight"):
            parts, real[name] = quantise(state.pop(name).float())
            state |= {f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    return {**dict(model.state_dict()), **real}


@pytest.mark.parametrize("way", WAYS)
def test_layers_are_the_numbers_that_they_stand_for(way: str, tmp_path: Path) -> None:
    state = made(tmp_path, way)
    model = score.load(tmp_path)
    found = model.state_dict()
    assert set(found) == set(state)
    for name, value in state.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value.float()), name
    with torch.no_grad():
        reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).eval()
        reference.load_state_dict({name: value.float() for name, value in state.items()})
        tokens = torch.tensor([[1, 5, 9, 33]])
        assert torch.allclose(model(tokens).logits, reference(tokens).logits, atol=1e-5)


def test_beside_bfloat16_they_are_bfloat16(tmp_path: Path) -> None:
    state = made(tmp_path, "GPTQ, 4 bits", torch.bfloat16)
    for name, value in score.load(tmp_path).state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, state[name].to(torch.bfloat16))


def test_they_are_converted_as_numbers(tmp_path: Path) -> None:
    from score.cli import conversion

    state = made(tmp_path / "model", "AWQ")
    conversion.to_safetensors(Settings.load(tmp_path / "model"), tmp_path / "plain.safetensors")
    written = load_file(tmp_path / "plain.safetensors")
    assert all(torch.equal(written[name], state[name].float()) for name in written)


def test_a_configuration_beside_the_weights_says_how(tmp_path: Path) -> None:
    state = made(tmp_path, "GPTQ, 4 bits")
    config = json.loads((tmp_path / "config.json").read_text())
    said = config.pop("quantization_config")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantisedWeights):
        score.load(tmp_path)
    said.pop("quant_method")
    (tmp_path / "quantize_config.json").write_text(json.dumps(said))
    assert torch.equal(
        score.load(tmp_path).state_dict()["model.layers.0.mlp.up_proj.weight"],
        state["model.layers.0.mlp.up_proj.weight"],
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_linear_layers_of_torch_ao(wrapped: bool, tmp_path: Path) -> None:
    model = torch.ao.quantization.quantize_dynamic(test_quantised.LeNet().eval(), {nn.Linear}, torch.qint8)
    torch.save({"state_dict": model.state_dict()} if wrapped else model.state_dict(), tmp_path / "model.pt")
    weights = open_weights(Settings.load(tmp_path)).weights
    assert weights is not None
    found = {name: ref.load() for name, ref in weights.tensors.items()}
    weight, bias = model.fc._weight_bias()
    assert set(found) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
    assert torch.equal(found["fc.weight"], weight.dequantize())
    assert torch.equal(found["fc.bias"], bias)
    named = f"{test_quantised.__file__}:LeNet"
    served = pipeline.load_model(Settings.load(tmp_path, architecture=named, trust_code=True))
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(torch.from_numpy(served(x.numpy())), model(x), atol=0.05)


# what is not known, or lacks a part, does not start


@pytest.mark.parametrize(
    ("way", "change", "says"),
    [
        ("GPTQ, 4 bits", {"bits": 5}, "bits"),
        ("GPTQ, 4 bits", {"quant_method": "new"}, "GPTQ or AWQ"),
        ("GPTQ, 4 bits", {"quant_method": "hqq"}, "GPTQ or AWQ"),
        ("GPTQ, 4 bits", {"quant_method": "fp8"}, "leaves"),
        ("AWQ", {"version": "gemv"}, "gemv"),
        ("AWQ", {"bits": 8}, "bits"),
        ("FP8 by blocks", {"weight_block_size": [3, 5]}, "blocks"),
        ("FP8 by rows", {"quant_method": "gptq", "bits": 4}, "leaves"),
    ],
)
def test_a_configuration_that_is_not_applied_does_not_start(
    way: str, change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    made(tmp_path, way)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantisedWeights, match=says):
        score.load(tmp_path)


@pytest.mark.parametrize(
    ("way", "gone"),
    [("GPTQ, 4 bits", "scales"), ("GPTQ, 4 bits", "qzeros"), ("AWQ", "scales"), ("FP8 by rows", "weight_scale"),
     ("FP8 by blocks", "weight_scale_inv")],
)  # fmt: skip
def test_a_layer_without_its_scales_does_not_start(way: str, gone: str, tmp_path: Path) -> None:
    made(tmp_path, way)
    state = load_file(tmp_path / "model.safetensors")
    del state[f"model.layers.0.mlp.up_proj.{gone}"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(QuantisedWeights, match=r"up_proj"):
        score.load(tmp_path)


def test_a_plain_model_that_says_it_is_quantised_does_not_start(tmp_path: Path) -> None:
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}})
    )
    with pytest.raises(QuantisedWeights, match="all as they are"):
        score.load(tmp_path)


@given(st.sampled_from([2, 3, 4, 8]), st.integers(1, 4), st.data())
def test_integers_are_unpacked_as_they_were_packed(bits: int, words: int, data: st.DataObject) -> None:
    count = words * 32 * bits // 32 * 32 // bits
    values = np.array([data.draw(st.integers(0, (1 << bits) - 1)) for _ in range(32 * words)])[None]
    assert count
    found = packing.unpacked(torch.from_numpy(packed(values, bits)), bits)
    assert found[0, : values.shape[1]].tolist() == values[0].tolist()
