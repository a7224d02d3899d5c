"""Quantised weights against the libraries that write them, installed into build/quantised by `make test-quantised`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.formats.base import TensorRef
from score.formats.dtypes import name_of
from score.weights.quantisation import bitsandbytes, compressed

pytestmark = pytest.mark.quantised
LIBRARY = Path(__file__).parents[2] / "build" / "quantised"


@pytest.fixture(autouse=True)
def _libraries() -> Iterator[None]:
    if not LIBRARY.is_dir():
        pytest.skip("make test-quantised installs the libraries")
    sys.path.insert(0, str(LIBRARY))
    yield
    sys.path.remove(str(LIBRARY))


def refs(state: dict[str, torch.Tensor]) -> dict[str, TensorRef]:
    return {
        name: TensorRef(name_of(value.dtype), tuple(value.shape), value.nbytes, value, lambda value=value: value)  # type: ignore[misc]
        for name, value in state.items()
    }


@pytest.mark.parametrize("block", [None, 32])
@pytest.mark.parametrize(
    "config",
    ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig", "IntxWeightOnlyConfig"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchao(tmp_path: Path, config: str, block: int | None, dtype: torch.dtype) -> None:
    import score

    quantization = pytest.importorskip("torchao.quantization")
    said = {}
    if block is not None:
        if config != "IntxWeightOnlyConfig":
            pytest.skip("its blocks are rows")
        said = {"weight_dtype": torch.int4, "granularity": quantization.PerGroup(block)}
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32)).to(dtype)
    quantization.quantize_(net, getattr(quantization, config)(**said))
    torch.save(net.state_dict(), tmp_path / "model.pt")
    found = score.open_weights(tmp_path / "model.pt")
    for name, value in net.state_dict().items():
        wanted = value.dequantize() if name.endswith("weight") else value
        assert found[name].dtype == dtype and torch.equal(found[name], wanted)


@pytest.mark.parametrize("shape", [(96, 64), (3, 96, 64)])
def test_four_bits_of_torchao(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """What packs them is for GPUs alone; here it is done by hand, as it does."""
    import score

    quantization = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.bfloat16)
    blocks = weight.float().unflatten(-1, (-1, 32))
    least, most = blocks.amin(-1), blocks.amax(-1)
    scale = (most - least) / 15
    zero = least + 8 * scale
    values = ((blocks - zero[..., None]) / scale[..., None]).round().clamp(-8, 7).to(torch.int8).flatten(-2)
    made = quantization.Int4Tensor(
        values[..., ::2] & 15 | values[..., 1::2] << 4,
        scale.transpose(-1, -2).to(weight.dtype).contiguous(),
        zero.transpose(-1, -2).to(weight.dtype).contiguous(),
        [1] * (len(shape) - 1) + [32],
        torch.Size(shape),
    )
    torch.save({"0.weight": made, "0.bias": torch.zeros(96)}, tmp_path / "model.pt")
    found = score.open_weights(tmp_path / "model.pt")["0.weight"]
    assert found.dtype == weight.dtype
    assert (found.float() - weight.float()).abs().max() <= 0.52 * scale.max() + 0.03


@pytest.mark.parametrize("shard", ["40KB", "1GB"])
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("Int8WeightOnlyConfig", {}),
        ("Int8DynamicActivationInt8WeightConfig", {}),
        ("Float8WeightOnlyConfig", {}),
        ("IntxWeightOnlyConfig", {"weight_dtype": torch.int4}),
    ],
)
def test_torchao_as_transformers_saves_it(tmp_path: Path, config: str, said: dict[str, Any], shard: str) -> None:
    import score

    quantization = pytest.importorskip("torchao.quantization")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 200}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_attention_heads=4, **small)).bfloat16()
    model.save_pretrained(tmp_path / "plain")
    way = transformers.TorchAoConfig(getattr(quantization, config)(**said))
    made = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=way, dtype=torch.bfloat16
    )
    made.save_pretrained(tmp_path / "quantised", max_shard_size=shard)
    found, wanted = score.open_weights(tmp_path / "quantised"), made.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        numbers = value.dequantize() if hasattr(value, "qdata") else value
        assert torch.equal(found[name], numbers)


def test_what_is_not_known_of_torchao_is_refused(tmp_path: Path) -> None:
    import score
    from score.errors import QuantisedWeights

    quantization = pytest.importorskip("torchao.quantization")
    from torchao.quantization.quantize_.workflows.int4.int4_plain_int32_tensor import Int4PlainInt32Tensor

    net = nn.Sequential(nn.Linear(64, 96))
    made = Int4PlainInt32Tensor(
        torch.zeros(96, 8, dtype=torch.int32),
        torch.ones(2, 96),
        torch.zeros(2, 96, dtype=torch.int8),
        [1, 32],
        (96, 64),
    )
    net[0].weight = nn.Parameter(made, requires_grad=False)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    with pytest.raises(QuantisedWeights, match="torch"):
        score.open_weights(tmp_path / "model.pt")
    assert quantization


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(64, 128), (8, 192), (300, 640)])
def test_four_bits_of_bitsandbytes(kind: str, nested: bool, shape: tuple[int, int]) -> None:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(shape[1], shape[0], quant_type=kind, compress_statistics=nested)
    layer.load_state_dict({"weight": torch.randn(shape), "bias": torch.zeros(shape[0])})
    layer = layer.to("cpu")
    state = layer.state_dict()
    wanted = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    found = bitsandbytes.dequantised(refs(state), {}, "float32")
    assert set(found) == {"weight", "bias"} or set(found) == {".weight", ".bias"}
    assert torch.allclose(found["weight"].load(), wanted.float(), atol=1e-6)


def test_rows_that_are_no_whole_blocks() -> None:
    """Blocks go on from row to row. The library's own way back on CPUs begins each row with another scale than it was
    written with; what is near the original is right."""
    import bitsandbytes as bnb

    torch.manual_seed(0)
    weight = torch.randn(7, 96)
    layer = bnb.nn.Linear4bit(96, 7, quant_type="nf4", compress_statistics=False)
    layer.load_state_dict({"weight": weight.clone(), "bias": torch.zeros(7)})
    found = bitsandbytes.dequantised(refs(layer.to("cpu").state_dict()), {}, "float32")
    assert (found["weight"].load() - weight).abs().max() < 0.4


def test_eight_bits_of_bitsandbytes() -> None:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    weight = torch.randn(64, 128)
    layer = bnb.nn.Linear8bitLt(128, 64, has_fp16_weights=False)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(64)})
    state = nn.ModuleDict({"fc": layer.to("cpu")}).state_dict()
    found = bitsandbytes.dequantised(refs(state), {}, "float32")
    assert set(found) == {"fc.weight", "fc.bias"}
    assert torch.allclose(found["fc.weight"].load(), weight, atol=0.03)


SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "four bits in groups": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}),
    "four bits, not symmetric": (
        "pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
    ),
    "four bits by rows": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "channel"}),
    "eight bits packed": ("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    "eight bits": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    "eight bits for all": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "tensor"}),
    "floats by rows": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "floats for all": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "NVFP4": ("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
def test_compressed_tensors(name: str) -> None:
    from compressed_tensors.compressors import compress_module, decompress_module
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, initialize_module_for_quantization

    format, said = SCHEMES[name]
    torch.manual_seed(0)
    layer = nn.Linear(128, 64, bias=False)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**said), format=format)
    initialize_module_for_quantization(layer, scheme)
    size = said.get("group_size")
    largest = (
        layer.weight.abs().view(64, -1, size or 128).amax(2)
        if said["strategy"] != "tensor"
        else layer.weight.abs().max()
    )
    most = {("int", 4): 7, ("int", 8): 127, ("float", 8): 448, ("float", 4): 6}[said["type"], said["num_bits"]]
    if "NVFP4" in name:
        layer.weight_global_scale.data.fill_(448 * 6 / layer.weight.abs().max())
        largest = largest * layer.weight_global_scale
    layer.weight_scale.data = (largest / most).reshape(layer.weight_scale.shape).to(layer.weight_scale.dtype)
    if getattr(layer, "weight_zero_point", None) is not None and said.get("symmetric") is False:
        layer.weight_zero_point.data.random_(-8, 8)
    compress_module(layer)
    state = {f"fc.{key}": value.detach().clone() for key, value in layer.state_dict().items()}
    decompress_module(layer)
    config = {"config_groups": {"group_0": json.loads(scheme.model_dump_json())}}
    found = compressed.dequantised(refs(state), config, "float32")
    assert set(found) == {"fc.weight"}
    rounded = 1e-2 if "NVFP4" in name else 1e-5  # the library gives these as bfloat16
    assert torch.allclose(found["fc.weight"].load(), layer.weight.float(), rtol=rounded, atol=1e-6)
