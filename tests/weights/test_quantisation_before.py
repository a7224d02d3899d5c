"""torchao's AffineQuantizedTensor against the torchao that had it, installed into build/quantised_before by
`make test-quantised`: in a process of its own, since a process has one torchao."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import score
from score.errors import QuantisedWeights

pytestmark = pytest.mark.quantised
LIBRARY = Path(__file__).parents[2] / "build" / "quantised_before"


@pytest.fixture(autouse=True)
def _library() -> Iterator[None]:
    if not LIBRARY.is_dir():
        pytest.skip("make test-quantised installs the library")
    sys.path.insert(0, str(LIBRARY))
    yield
    sys.path.remove(str(LIBRARY))


WAYS: dict[str, Callable[[Any], Any]] = {
    "int8 by rows": lambda torchao: torchao.int8_weight_only(),
    "int8 in groups": lambda torchao: torchao.int8_weight_only(group_size=32),
    "int8, inputs too": lambda torchao: torchao.int8_dynamic_activation_int8_weight(),
    "int4 in int8, inputs too": lambda torchao: torchao.int8_dynamic_activation_int4_weight(group_size=32),
    "float8": lambda torchao: torchao.float8_weight_only(),
    **{
        f"uint{bits}, packed along {along}": lambda torchao, bits=bits, along=along: torchao.uintx_weight_only(
            getattr(torch, f"uint{bits}"), group_size=32, pack_dim=along
        )
        for bits in range(1, 8)
        for along in (-1, 0)
    },
    "uint4, half quadratic": lambda torchao: torchao.uintx_weight_only(torch.uint4, group_size=32, use_hqq=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchao(tmp_path: Path, way: str, dtype: torch.dtype) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32)).to(dtype)
    quantization.quantize_(net, WAYS[way](quantization))
    torch.save(net.state_dict(), tmp_path / "model.pt")
    found = score.open_weights(tmp_path / "model.pt")
    for name, value in net.state_dict().items():
        inner = getattr(value, "original_weight_tensor", value)
        wanted = inner.dequantize() if name.endswith("weight") else value
        assert found[name].dtype == dtype
        near = {"rtol": 0.02, "atol": 0.02} if "half" in way and dtype == torch.bfloat16 else {"rtol": 0, "atol": 1e-6}
        assert torch.allclose(found[name].float(), wanted.float(), **near)


def test_weights_that_are_laid_out_for_one_kernel_are_refused(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from torchao.dtypes import Int4CPULayout

    net = nn.Sequential(nn.Linear(64, 32)).to(torch.bfloat16)
    quantization.quantize_(net, quantization.int4_weight_only(group_size=32, layout=Int4CPULayout()))
    torch.save(net.state_dict(), tmp_path / "model.pt")
    with pytest.raises(QuantisedWeights, match="torchao"):
        score.open_weights(tmp_path / "model.pt")
