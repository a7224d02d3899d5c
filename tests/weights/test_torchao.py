"""torchao's tensors in a pickle, as the numbers that they stand for, written here by classes of the same names.

tests/weights/test_quantisation_libraries.py holds them against torchao itself.
"""

import enum
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from score.errors import LoadError, QuantisedWeights
from score.formats.registry import open_checkpoint
from score.weights import quantised

MODULE = "torchao.made_up"
Zeros = enum.Enum("Zeros", ["INT", "FLOAT", "NONE"])  # as torchao numbers them


class Subclass(torch.Tensor):
    """A tensor that holds others, as torchao's do."""

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], dtype: torch.dtype, **held: Any) -> "Subclass":
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        made.__dict__.update(held)
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def torchao() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchao", ModuleType("torchao"))
        patch.setitem(sys.modules, MODULE, ModuleType(MODULE))
        patch.setattr(Zeros, "__module__", MODULE)
        sys.modules[MODULE].Zeros = Zeros  # type: ignore[attr-defined]
        yield


def tensor(kind: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, **held: Any) -> Subclass:
    made: Callable[..., Subclass] = type(kind, (Subclass,), {"__module__": MODULE})
    setattr(sys.modules[MODULE], kind, made)
    return made(shape, dtype, **held)


def read(folder: Path, weight: torch.Tensor) -> torch.Tensor:
    torch.save({"a.weight": weight, "a.bias": torch.ones(2)}, folder / "model.pt")
    weights = quantised.weights_of(open_checkpoint(folder / "model.pt"), None)
    assert weights is not None and weights.tensors["a.weight"].shape == tuple(weight.shape)
    return weights.tensors["a.weight"].load()


DATA, SCALE = torch.arange(-4, 4, dtype=torch.int8).view(2, 4), torch.tensor([[1.0, 2.0], [0.5, 0.25]])
ZERO = torch.tensor([[1, 2], [3, 4]], dtype=torch.int8)


def spread(values: torch.Tensor) -> torch.Tensor:
    return values.repeat_interleave(2, 1)


def affine(kind: str, zeros: Any, more: dict[str, Any] | None = None, **parts: Any) -> Subclass:
    inner = tensor(kind, (2, 4), torch.int8, **{"scale": SCALE, "zero_point": None, **parts})
    held = {"block_size": (1, 2), "quant_min": None, "quant_max": None, "zero_point_domain": zeros}
    return tensor("AffineQuantizedTensor", (2, 4), tensor_impl=inner, **(held | (more or {})))


@pytest.mark.parametrize("zero", [None, ZERO])
def test_eight_bits(tmp_path: Path, zero: torch.Tensor | None) -> None:
    weight = tensor("Int8Tensor", (2, 4), qdata=DATA, scale=SCALE, block_size=[1, 2], zero_point=zero)
    taken = torch.zeros(2, 2) if zero is None else zero.float()
    assert torch.equal(read(tmp_path, weight), (DATA - spread(taken)) * spread(SCALE))


@pytest.mark.parametrize("zero", [None, ZERO])
def test_the_same_before_it_had_a_class_of_its_own(tmp_path: Path, zero: torch.Tensor | None) -> None:
    weight = affine("PlainAQTTensorImpl", Zeros["INT"], int_data=DATA, zero_point=zero)
    taken = torch.zeros(2, 2) if zero is None else zero.float()
    wanted = (DATA - spread(taken)) * spread(SCALE)
    assert torch.equal(read(tmp_path, weight), wanted)
    around = tensor("LinearActivationQuantizedTensor", (2, 4), original_weight_tensor=weight, input_quant_func=print)
    assert torch.equal(read(tmp_path, around), wanted)


def test_zero_points_that_are_added(tmp_path: Path) -> None:
    data, zero = torch.arange(8, dtype=torch.uint8).view(2, 4), torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    ends = {"quant_min": 0, "quant_max": 15}
    weight = affine("PlainAQTTensorImpl", Zeros["FLOAT"], ends, int_data=data, zero_point=zero)
    assert torch.equal(read(tmp_path, weight), (data.float() - 8) * spread(SCALE) + spread(zero))


def test_floats_of_eight_bits(tmp_path: Path) -> None:
    data = DATA.float().to(torch.float8_e4m3fn)
    weight = affine("Float8AQTTensorImpl", Zeros["NONE"], float8_data=data, transposed=False)
    assert torch.equal(read(tmp_path, weight), data.float() * spread(SCALE))


@given(st.integers(1, 7), st.sampled_from([-1, 0]), st.integers(0, 2**32 - 1))
def test_integers_in_shards(tmp_path_factory: pytest.TempPathFactory, bits: int, along: int, seed: int) -> None:
    values = torch.randint(0, 1 << bits, (16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    shards, done = {}, 0
    for width in [width for width in (4, 2, 1) if bits & width]:  # each byte has `8 / width` parts of the dimension
        pieces = (values >> done & (1 << width) - 1).chunk(8 // width, along)
        shards[f"int{width}_shard"] = sum(piece << at * width for at, piece in enumerate(pieces))
        done += width
    data = tensor("UintxTensor", (16, 24), torch.uint8, bit_width=bits, pack_dim=along, **shards)
    inner = tensor("UintxAQTTensorImpl", (16, 24), torch.uint8, int_data=data, scale=torch.ones(()), zero_point=None)
    weight = tensor(
        "AffineQuantizedTensor", (16, 24), tensor_impl=inner, block_size=(16, 24), zero_point_domain=Zeros["NONE"]
    )
    assert torch.equal(read(tmp_path_factory.mktemp("shards"), weight), values.float())


@pytest.mark.parametrize("shape", [(2, 4), (3, 2, 4)])
def test_four_bits(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = (torch.arange(torch.Size(shape).numel()) % 16 - 8).to(torch.int8).view(shape)
    packed = values[..., ::2] & 15 | values[..., 1::2] << 4
    scale, zero = torch.rand(*shape[:-1], 2), torch.rand(*shape[:-1], 2)
    parts = {"scale": scale.transpose(-1, -2).contiguous(), "zero_point": zero.transpose(-1, -2).contiguous()}
    block = [1] * (len(shape) - 1) + [2]
    weight = tensor("Int4Tensor", shape, qdata=packed, block_size=block, act_pre_scale=None, **parts)
    wanted = values * scale.repeat_interleave(2, -1) + zero.repeat_interleave(2, -1)
    assert torch.equal(read(tmp_path, weight), wanted)


EIGHT = {"qdata": DATA, "scale": SCALE, "block_size": [1, 2], "zero_point": None}
FOUR = {"qdata": DATA[:, :2], "scale": SCALE, "block_size": [1, 2], "zero_point": SCALE}
REFUSED: dict[str, Callable[[], torch.Tensor]] = {
    "blocks that are none of it": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"block_size": [1, 3]}),
    "blocks of one dimension": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"block_size": [2]}),
    "blocks as text": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"block_size": "1, 2"}),
    "inputs that are scaled": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"act_pre_scale": torch.ones(4)}),
    "too few scales": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"scale": torch.ones(3)}),
    "no scale": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"scale": None}),
    "integers of another shape": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"qdata": DATA.T}),
    "integers where floats belong": lambda: tensor("Float8Tensor", (2, 4), **EIGHT),
    "bytes where signed integers belong": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"qdata": DATA.byte()}),
    "floats where integers belong": lambda: tensor("Int8Tensor", (2, 4), **EIGHT | {"qdata": SCALE}),
    "four bits without zero points": lambda: tensor("Int4Tensor", (2, 4), **FOUR | {"zero_point": None}),
    "four bits, scales turned": lambda: tensor("Int4Tensor", (4, 4), **FOUR | {"qdata": torch.ones(4, 2).char()}),
    "four bits, not all": lambda: tensor("Int4Tensor", (2, 4), **FOUR | {"qdata": DATA[:, :1]}),
    "four bits, odd": lambda: tensor("Int4Tensor", (2, 3), **FOUR),
    "a layout for one kernel": lambda: affine("TensorCoreTiledAQTTensorImpl", Zeros["INT"], int_data=DATA),
    "a part that turns": lambda: affine(
        "Float8AQTTensorImpl", Zeros["NONE"], float8_data=DATA.float().to(torch.float8_e4m3fn), transposed=True
    ),
    "zero points of no known kind": lambda: affine("PlainAQTTensorImpl", None, int_data=DATA, zero_point=ZERO),
    "an unknown range": lambda: affine("PlainAQTTensorImpl", Zeros["FLOAT"], int_data=DATA, zero_point=ZERO),
    "a wrapper of something else": lambda: tensor(
        "LinearActivationQuantizedTensor", (2, 4), original_weight_tensor=torch.ones(2, 4)
    ),
    "shards of nine bits": lambda: affine(
        "UintxAQTTensorImpl", Zeros["NONE"], int_data=tensor("UintxTensor", (2, 4), bit_width=9, pack_dim=0)
    ),
    "shards along no dimension": lambda: affine(
        "UintxAQTTensorImpl", Zeros["NONE"],
        int_data=tensor("UintxTensor", (2, 4), bit_width=4, pack_dim=2, int4_shard=torch.ones(2, 2).byte()),
    ),
    "shards that are missing": lambda: affine(
        "UintxAQTTensorImpl", Zeros["NONE"], int_data=tensor("UintxTensor", (2, 4), bit_width=4, pack_dim=-1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_lacks_something_is_refused(tmp_path: Path, name: str) -> None:
    torch.save({"a.weight": REFUSED[name](), "a.bias": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(LoadError):
        quantised.weights_of(open_checkpoint(tmp_path / "model.pt"), None)


INT8 = {"_type": "Int8Tensor", "_data": {"block_size": [1, 2], "dtype": {"_type": "torch.dtype", "_data": "float32"}}}
INT4 = {"_type": "Int4Tensor", "_data": {"block_size": [1, 2], "shape": [2, 4]}}
PLAIN = {"_type": "Tensor"}
SAID = {
    "a.weight": INT8 | {"_tensor_data_names": ["qdata", "scale"]},
    "b.weight": INT4 | {"_tensor_data_names": ["qdata", "scale", "zero_point"]},
    "b.bias": PLAIN,
}
PARTS = {
    "a._weight_qdata": DATA,
    "a._weight_scale": SCALE,
    "b._weight_qdata": torch.tensor([[0x21, 0x43], [0x8F, 0x70]], dtype=torch.uint8).view(torch.int8),
    "b._weight_scale": torch.tensor([[1.0, 0.5], [2.0, 0.25]]),
    "b._weight_zero_point": torch.tensor([[0.0, 1.0], [-1.0, 0.0]]),
    "b.bias": torch.ones(2),
}
WANTED = {
    "a.weight": DATA * spread(SCALE),
    "b.weight": torch.tensor([[1.0, 2.0, 5.0, 7.0], [0.5, -3.0, 0.0, 1.75]]),
    "b.bias": torch.ones(2),
}
CONFIG = {"model_type": "llama", "quantization_config": {"quant_method": "torchao"}}


def described(said: dict[str, Any]) -> dict[str, str]:
    """As torchao has it in a safetensors file's metadata."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}
    return {"format": "pt", "tensor_names": json.dumps(list(said)), **texts}


def numbers(path: Path) -> dict[str, torch.Tensor]:
    weights = quantised.weights_of(open_checkpoint(path), None)
    assert weights is not None
    return {name: ref.load() for name, ref in weights.tensors.items()}


def assert_wanted(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == WANTED.keys()
    assert all(torch.equal(found[name], WANTED[name]) for name in WANTED)


def test_parts_in_a_safetensors_file(tmp_path: Path) -> None:
    save_file(PARTS, tmp_path / "model.safetensors", described(SAID))
    assert_wanted(numbers(tmp_path / "model.safetensors"))
    said = open_checkpoint(tmp_path / "model.safetensors").metadata
    assert said.keys() == {"format", "torchao"} and said["torchao"].keys() == SAID.keys()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert_wanted(numbers(tmp_path))


def test_parts_in_several_files(tmp_path: Path) -> None:
    places = {}
    for at, name in enumerate(PARTS):
        places[name] = f"model-0000{at % 2}.safetensors"
    for file in set(places.values()):
        held = {name: value for name, value in PARTS.items() if places[name] == file}
        save_file(held, tmp_path / file, described(SAID))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert_wanted(numbers(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert_wanted(numbers(tmp_path))


def test_a_folder_of_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    weight = tensor("Int8Tensor", (2, 4), qdata=DATA, scale=SCALE, block_size=[1, 2])
    torch.save({"a.weight": weight, "a.bias": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert torch.equal(numbers(tmp_path)["a.weight"], WANTED["a.weight"])


def test_a_folder_that_says_so_of_weights_that_are_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"a.weight": torch.ones(2, 4), "a.bias": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(QuantisedWeights, match="leaves all as they are"):
        numbers(tmp_path)


def test_a_files_own_metadata_do_not_hide_what_the_configuration_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"a.weight": torch.ones(2, 4)}, tmp_path / "model.safetensors", {"quantization_config": "none"})
    with pytest.raises(QuantisedWeights):
        numbers(tmp_path)


@pytest.mark.parametrize(
    ("said", "gone", "match"),
    [
        ({}, "a._weight_scale", "a._weight_scale is not in the checkpoint"),
        ({"a.weight": INT8 | {"_tensor_data_names": ["qdata"]}}, None, "Int8Tensor"),
        ({"a.weight": INT8 | {"_type": "Int4TilePackedTo4dTensor", "_tensor_data_names": ["qdata"]}}, None, "4dTensor"),
        ({"a.weight": INT8}, None, "made of"),
        ({"a.weight": "["}, None, "do not say what 'a.weight' is"),
        ({"a.weight": "[1]"}, None, "do not say"),
        (
            {"a.weight": INT8 | {"_data": {"block_size": [1, 3]}, "_tensor_data_names": ["qdata", "scale"]}},
            None,
            "Int8",
        ),
        (
            {"a.weight": {**INT8, "_data": {**INT8["_data"], "dtype": 5}, "_tensor_data_names": ["qdata", "scale"]}},  # type: ignore[dict-item]
            None,
            "Int8",
        ),
        ({"b.weight": INT4 | {"_data": {"block_size": [1, 2], "shape": [2, -4]}}}, None, "made of"),
        ({"b.weight": PLAIN}, None, r"leaves b\._weight"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    tmp_path: Path, said: dict[str, Any], gone: str | None, match: str
) -> None:
    parts = {name: value for name, value in PARTS.items() if name != gone}
    save_file(parts, tmp_path / "model.safetensors", described(SAID | said))
    with pytest.raises(QuantisedWeights, match=match):
        numbers(tmp_path / "model.safetensors")


def test_parts_without_a_description_are_refused(tmp_path: Path) -> None:
    save_file(PARTS, tmp_path / "model.safetensors")
    with pytest.raises(QuantisedWeights, match="torchao"):
        numbers(tmp_path / "model.safetensors")
    save_file(PARTS, tmp_path / "model.safetensors", described(SAID) | {"tensor_names": "[1]"})
    with pytest.raises(QuantisedWeights, match="torchao"):
        numbers(tmp_path / "model.safetensors")
