"""Modules that torch.fx traced are served as they are, without trust, where all that they do is to compute."""

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from score.architectures.torch_layers import NotPlain
from score.errors import UntrustedCode
from score.formats._program import fx_code, fx_values
from score.inference import pipeline
from score.settings import Settings
from tests.architectures.test_torchvision_blocks import rebuilt


class Net(nn.Module):
    """With all that torch.fx writes: parts in lists, parameters, buffers, methods, arithmetic, parts of values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.blocks = nn.Conv2d(3, 4, 3), nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))])
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("shift", torch.rand(4))

    def forward(self, pictures: torch.Tensor, factor: float = 2.0, other: torch.Tensor | None = None) -> Any:
        x = F.relu(self.conv(pictures)).mean((2, 3))
        x = -self.blocks[0](x) * self.scale + self.shift[None]  # type: ignore[index]
        wide = torch.cat([x.view(x.size(0), -1), (x / factor) ** 2], dim=1)
        left, right = wide.chunk(2, dim=1)
        rows = x.shape[0] + len(self.blocks)
        torch._assert(rows > 1, "no rows")
        last = (right + rows)[:, :2].to(torch.float64) @ torch.ones(2, 2, dtype=torch.float64)
        return {"left": torch.softmax(left, -1), "all": [last, wide.abs().max(dim=1)[0]], "more": left >= right}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 8)).unbind(-2)
        likely = torch.einsum("bqc,bkc->bqk", q, k).mul(8**-0.5).softmax(-1)
        return F.scaled_dot_product_attention(q, k, v) + likely @ v


def trained(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_()  # type: ignore[union-attr]
    return module.eval()


@pytest.mark.parametrize(
    ("make", "shape"), [(Net, (2, 3, 6, 6)), (Attention, (2, 5, 8))], ids=lambda given: getattr(given, "__name__", "")
)
def test_a_traced_module_answers_as_it_did(make: type[nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    traced, x = fx.symbolic_trace(trained(make())), torch.rand(shape)
    torch.save(traced, tmp_path / "model.pt")
    served = pipeline.load_model(Settings.load(tmp_path / "model.pt"))
    assert served.report.architecture == "torch.fx.graph_module.GraphModule"
    assert [spec.name for spec in served.signature.inputs][:1] == [("pictures" if make is Net else "x")]
    with torch.inference_mode():
        torch.testing.assert_close(served.module(x), traced(x), rtol=0, atol=0)


def test_one_that_was_quantised_computes_in_integers(tmp_path: Path) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval(), torch.rand(2, 3, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = quantize_fx.prepare_fx(net, get_default_qconfig_mapping("fbgemm"), (x,))
        prepared(x)
        quantised = quantize_fx.convert_fx(prepared)
        torch.save(quantised, tmp_path / "model.pt")
    with torch.inference_mode():
        assert torch.equal(rebuilt(tmp_path / "model.pt")(x), quantised(x))


def test_what_is_not_known_needs_trust(tmp_path: Path) -> None:
    class Arrays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.layer(x).numpy()

    torch.save(fx.symbolic_trace(Arrays()), tmp_path / "model.pt")
    with pytest.raises(NotPlain, match="numpy"):
        rebuilt(tmp_path / "model.pt")
    with pytest.raises(UntrustedCode, match="GraphModule") as raised:
        pipeline.load_model(Settings.load(tmp_path / "model.pt"))
    assert raised.value.code


def parts(path: tuple[str, ...]) -> Any:
    found = {("layer",): nn.Linear(2, 2), ("weight",): torch.ones(2)}.get(path)
    if found is None:
        raise fx_code.NotAllowed(f"self.{'.'.join(path)}, which is not in it")
    return found


def function(answer: str, *body: str) -> str:
    lines = "".join(f"    {line}\n" for line in (*body, f"return {answer}"))
    return f"def forward(self, x, y = 3):\n{lines}"


@pytest.mark.parametrize(
    "text",
    [
        function("os.system('id')"),
        function("x", "import os"),
        function("eval('1')"),
        function("__import__('os')"),
        function("x.__class__"),
        function("getattr(x, '__class__')(1)"),
        function("self.layer.__class__"),
        function("self.layer.forward(x)"),
        function("self.missing(x)"),
        function("self"),
        function("self.weight(x)"),
        function("torch.load('weights.pt')"),
        function("torch.save(x, 'weights.pt')"),
        function("torch.hub.load('a', 'b')"),
        function("torch.manual_seed(3)"),
        function("torch._C._jit_set_profiling_mode(True)"),
        function("torch.ops.load_library('a.so')"),
        function("torch.ops.aten.set_.source_Tensor(x, x)"),
        function("torch.ops.aten.empty.memory_format([3])"),
        function("torch.nn.functional.torch"),
        function("torch.nn.functional.handle_torch_function(x)"),
        function("x.numpy()"),
        function("x.shape.numel"),
        function("x.grad_fn"),
        function("x.resize_(10)"),
        function("x.apply_(abs)"),
        function("x.register_hook(abs)"),
        function("torch.add(x, x, out = self.weight)"),
        function("torch.add(*x)"),
        function("torch.add(**x)"),
        function("{**x}"),
        function("[each for each in x]"),
        function("(lambda: x)()"),
        function("f'{x}'"),
        function("(z := x)"),
        function("x if y else y"),
        function("x < y < 3"),
        function("b'bytes'"),
        function("z"),
        function("x", "torch = x"),
        function("x", "x.data = y"),
        function("x", "x[0] = y"),
        function("x", "if y: x = y"),
        function("x", "while True: pass"),
        function("x", "del x"),
        "def forward(self, x = torch.zeros(3)):\n    return x\n",
        "def forward(self, *x):\n    return x\n",
        "def forward(x):\n    return x\n",
        "@abs\ndef forward(self, x):\n    return x\n",
        "def backward(self, x):\n    return x\n",
        "async def forward(self, x):\n    return x\n",
        "print(1)\n" + function("x"),
        function("x") + function("x"),
        function("(" * 90 + "x" + ")" * 90 + "[0]" * 90),
        "",
        "def forward(self, x):\n    pass\n",
        "def forward(",
    ],
)
def test_text_that_does_more_than_compute_is_not_run(text: str) -> None:
    with pytest.raises(fx_code.NotAllowed):
        fx_code.read(text, parts)


def asked(answer: str, *body: str) -> Callable[[], Any]:
    read = fx_code.read(function(answer, *body), parts)
    return lambda: read({"x": torch.arange(4.0), "y": 3})


@pytest.mark.parametrize(
    "answer",
    [
        "'a' * 1000000000",
        "(0,) * 1000000000",
        "y ** 99999999",
        "(y << 60) << 60 << 60",
        "9 ** 60 ** 60",
        "y.sum()",
        "'text'.format(y)",
        "y.real",
        "y[0]",
        "getattr(x, 'grad_fn')",
        "torch._assert(y == 4, 'not four')",
    ],
)
def test_values_are_of_the_kind_that_is_needed(answer: str) -> None:
    with pytest.raises(fx_values.WrongValue):
        asked(answer)()


def test_nothing_comes_as_it_was_found_in_memory() -> None:
    for answer in ("torch.empty(5)", "torch.empty_like(x)", "x.new_empty(5)"):
        assert not asked(answer)().any()


def test_arithmetic_is_pythons() -> None:
    assert asked("(x.shape + (y, 2 ** 3), len(x.shape), -y // 2, not_equal)", "not_equal = operator.ne(y, 4)")() == (
        (4, 3, 8), 1, -2, True,
    )  # fmt: skip
    assert asked("x[slice(None, None, 2)]")().tolist() == [0.0, 2.0]
    assert asked("operator.getitem(x, -1)", "x = x.add(1);  z = None")().item() == 4.0


WRITTEN = fx.symbolic_trace(Net()).code.strip() + "\n"


ODD = ("", "(", "**x", "{**x}", ".a", "None", "x, ", "\n", "0")


@given(st.integers(0, len(WRITTEN)), st.integers(0, 12), st.sampled_from(ODD))
def test_any_text_is_read_or_refused(at: int, length: int, instead: str) -> None:
    with contextlib.suppress(fx_code.NotAllowed):
        fx_code.read(WRITTEN[:at] + instead + WRITTEN[at + length :], lambda _path: nn.Identity())
