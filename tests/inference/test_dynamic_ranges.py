"""Models whose rows share the range that they are quantised by are answered row by row, however they were saved."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.ao import quantization

from score.inference import dynamic_ranges, pipeline
from score.settings import Settings


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def _quantised() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantization.quantize_dynamic(_net(), {nn.Linear}, dtype=torch.qint8)


def _served(path: Path) -> Any:
    return pipeline.load_model(Settings.load(path, device="cpu", inputs="float32[N, 8]"))


def _program(path: Path, module: Any) -> None:
    torch.jit.script(module).save(str(path))


def _onnx(path: Path, *, dynamic: bool) -> None:
    """A matrix product, of integers where it is `dynamic`, as onnxruntime's quantiser writes it."""
    helper, proto = pytest.importorskip("onnx").helper, pytest.importorskip("onnx").TensorProto
    weights = np.random.default_rng(0).integers(-127, 127, (8, 2)).astype(np.int8)
    made = [helper.make_tensor("w", proto.INT8, weights.shape, weights.tobytes(), raw=True)]
    if dynamic:
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "w", "zero"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=proto.FLOAT),
            helper.make_node("Mul", ["f", "scale"], ["y"]),
        ]
    else:
        nodes = [helper.make_node("Cast", ["w"], ["f"], to=proto.FLOAT), helper.make_node("MatMul", ["x", "f"], ["y"])]
    takes, gives = (helper.make_tensor_value_info(name, proto.FLOAT, ["rows", n]) for name, n in (("x", 8), ("y", 2)))
    graph = helper.make_graph(nodes, "g", [takes], [gives], made)
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


class Decomposed(nn.Module):
    """As torchao's export writes a dynamic quantisation of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, zero = torch.ops.quantized_decomposed.choose_qparams.tensor(x, -128, 127, 1e-6, torch.int8)
        quantised = torch.ops.quantized_decomposed.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8)
        found: torch.Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor.tensor(
            quantised, scale, zero, -128, 127, torch.int8
        )
        return self.linear(found)  # type: ignore[no-any-return]


def _exported(path: Path) -> None:
    import torch.ao.quantization.fx._decomposed  # registers the operators

    rows = torch.export.Dim("rows")
    torch.export.save(torch.export.export(Decomposed(), (torch.rand(3, 8),), dynamic_shapes=({0: rows},)), path)


SHARED = {
    "a module": (lambda path: torch.save(_quantised(), path), "model.pt"),
    "TorchScript": (lambda path: _program(path, _quantised()), "model.pt"),
    "torch.export": (_exported, "model.pt2"),
    "torch.fx": (lambda path: torch.save(fx.symbolic_trace(Decomposed()), path), "model.pt"),
    "ONNX": (lambda path: _onnx(path, dynamic=True), "model.onnx"),
}
APART = {
    "TorchScript": (lambda path: _program(path, _net()), "model.pt"),
    "ONNX": (lambda path: _onnx(path, dynamic=False), "model.onnx"),
}


@pytest.mark.parametrize("name", SHARED)
def test_rows_that_share_a_range_are_answered_alone(name: str, tmp_path: Path) -> None:
    save, file = SHARED[name]
    save(tmp_path / file)
    served = _served(tmp_path / file)
    assert served.batcher.separable is False
    small, large = torch.rand(1, 8), 100 * torch.rand(1, 8)
    alone = served.batcher.submit({served.signature.inputs[0].name: small})[0]
    requests = [{served.signature.inputs[0].name: rows} for rows in (small, large)]
    beside = served.batcher.submit_all(requests)[0][0]
    np.testing.assert_array_equal(beside, alone)


@pytest.mark.parametrize("name", APART)
def test_others_are_batched(name: str, tmp_path: Path) -> None:
    save, file = APART[name]
    save(tmp_path / file)
    assert _served(tmp_path / file).batcher.separable is True


def test_a_traced_module_that_calls_the_operator_itself() -> None:
    """torch.fx's conversion of a function, not of a layer."""

    class Calls(nn.Module):
        def forward(self, x: torch.Tensor, packed: Any) -> torch.Tensor:
            found: torch.Tensor = torch.ops.quantized.linear_dynamic(x, packed, True)
            return found

    assert dynamic_ranges.shared(fx.symbolic_trace(Calls()))
    assert not dynamic_ranges.shared(fx.symbolic_trace(_net()))


def test_every_operator_is_one_of_torch() -> None:
    import torch.ao.quantization.fx._decomposed  # registers some

    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    assert known >= dynamic_ranges._OF_TORCH, "a name that torch does not have is looked for in vain"


def test_a_shared_range_that_no_operator_tells_shows_in_the_answers(tmp_path: Path) -> None:
    class Hidden(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            step = x.abs().max() / 127
            return torch.round(x / step) * step

    torch.jit.script(Hidden()).save(str(tmp_path / "model.pt"))
    assert _served(tmp_path / "model.pt").batcher.separable is False
