"""torch-export: plain programs of all kinds are served as torch serves them; what is not on the list needs trust."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.errors import MalformedFile, UntrustedCode
from score.formats._program import operators, symbols
from score.formats.base import Program
from score.formats.registry import open_checkpoint
from score.inference import pipeline
from score.settings import Settings
from tests.makers import net

AUTO = torch.export.Dim.AUTO


class Two(nn.Module):
    """Two inputs, one output by name, a loop over a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.lstm = nn.Linear(4, 3), nn.LSTM(3, 3, batch_first=True)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        mixed = self.a(left) + right[:, : left.shape[1]]
        out, (hidden, _) = self.lstm(mixed)
        return {"out": out.reshape(out.shape[0], -1), "hidden": hidden}


def programs() -> dict[str, torch.export.ExportedProgram]:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    two = (torch.rand(2, 5, 4), torch.rand(2, 7, 3))
    return {
        "convolutions": torch.export.export(net(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: AUTO, 2: AUTO},)),
        "two inputs": torch.export.export(Two().eval(), two, dynamic_shapes=({0: AUTO}, {0: AUTO})),
        "attention": torch.export.export(encoder, (torch.rand(2, 5, 8),), dynamic_shapes=({0: AUTO, 1: AUTO},)),
        "static": torch.export.export(nn.Linear(3, 2), (torch.rand(2, 3),)),
    }


@pytest.mark.parametrize("name", ["convolutions", "two inputs", "attention", "static"])
def test_a_plain_program_is_served_without_trust(tmp_path: Path, name: str) -> None:
    program = programs()[name]
    torch.export.save(program, tmp_path / "model.pt2")
    served = pipeline.load_model(Settings.load(tmp_path, device="cpu"))
    inputs = program.example_inputs[0]
    wanted = program.module()(*inputs)
    got = served.module(*inputs)
    torch.testing.assert_close(got, wanted)


def rewritten(tmp_path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A program with some of its records changed."""
    program = torch.export.export(net(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: AUTO},))
    torch.export.save(program, tmp_path / "plain.pt2")
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(tmp_path / "plain.pt2") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return path


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch /tmp/score-was-here",)


def _pickled_weight(name: str, content: bytes) -> bytes:
    if name == "data/weights/model_weights_config.json":
        config = json.loads(content)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()
    return content


def _evil_samples(name: str, content: bytes) -> bytes:
    if name == "data/sample_inputs/model.pt":
        buffer = io.BytesIO()
        torch.save(((Evil(),), {}), buffer)
        return buffer.getvalue()
    return content


def _graph(change: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def apply(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        model = json.loads(content)
        change(model)
        return json.dumps(model).encode()

    return apply


def _operator(target: str) -> Callable[[str, bytes], bytes]:
    return _graph(lambda model: model["graph_module"]["graph"]["nodes"][0].update(target=target))


def _expression(model: dict[str, Any]) -> None:
    text = json.dumps(model)
    at = text.index('"expr_str": "') + len('"expr_str": "')
    end = text.index('"', at)
    evil = "__import__('os').system('touch /tmp/score-was-here')"
    changed = json.loads(text[:at] + evil + text[end:])
    model.clear()
    model.update(changed)


def _name(model: dict[str, Any]) -> None:
    graph = model["graph_module"]["graph"]
    graph["inputs"][-1]["as_tensor"]["name"] = "x): __import__('os').system('touch /tmp/score-was-here')  #"


def _constant(path: str) -> Callable[[str, bytes], bytes]:
    """A constant of another kind than a tensor: torch unpickles `opaque_obj_*` whatever is said of it."""

    def apply(name: str, content: bytes) -> bytes:
        if name != "data/constants/model_constants_config.json":
            return content
        return json.dumps({"config": {"c": {"path_name": path, "is_param": False, "use_pickle": False}}}).encode()

    return apply


ATTACKS: dict[str, tuple[Callable[[str, bytes], bytes], str]] = {
    "a pickled weight": (_pickled_weight, "'conv.weight' in weight_0"),
    "a constant that torch unpickles": (_constant("opaque_obj_0"), "'c' in opaque_obj_0"),
    "an object of a class": (_constant("custom_obj_0"), "'c' in custom_obj_0"),
    "an operator by attributes": (_operator("torch.serialization.os.system"), "torch.serialization.os.system"),
    "an operator that loads native code": (_operator("torch.ops.load_library"), "torch.ops.load_library"),
    "an operator with dunders": (_operator("torch.ops.aten.__class__.__init__"), "__class__"),
    "an operator that reads files": (_operator("torch.ops.aten.from_file.default"), "torch.ops.aten.from_file.default"),
    "an operator that writes into what it is given": (_operator("torch.ops.aten.add.out"), "torch.ops.aten.add.out"),
    "a graph that loops": (_operator("torch.ops.higher_order.while_loop"), "torch.ops.higher_order.while_loop"),
    "Python code": (_operator("torch.ops.higher_order.run_with_rng_state"), "run_with_rng_state"),
    "a factorial": (_operator("math.factorial"), "math.factorial"),
    "a method by name": (_operator("_operator.methodcaller"), "_operator.methodcaller"),
    "an expression": (_graph(_expression), "__import__"),
    "a name that is source": (_graph(_name), "the name"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_not_on_the_list_needs_trust(tmp_path: Path, name: str) -> None:
    marker = Path("/tmp/score-was-here")
    marker.unlink(missing_ok=True)
    change, says = ATTACKS[name]
    path = rewritten(tmp_path, change)
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, Program)
    assert any(says in finding for finding in checkpoint.code), checkpoint.code
    with pytest.raises(UntrustedCode) as caught:
        pipeline.load_model(Settings.load(path))
    assert says in caught.value.detail
    assert not marker.exists()


def test_sample_inputs_are_never_read(tmp_path: Path) -> None:
    marker = Path("/tmp/score-was-here")
    marker.unlink(missing_ok=True)
    pipeline.load_model(Settings.load(rewritten(tmp_path, _evil_samples)))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: model["graph_module"]["graph"]["nodes"][0].pop("inputs"), "nodes"),
        (lambda model: model["graph_module"]["graph"]["nodes"][0].update(extra=1), "extra"),
        (lambda model: model["graph_module"]["graph"]["inputs"][0].update(as_int=1), "inputs"),
        (lambda model: model["graph_module"]["graph"].update(nodes={}), "nodes"),
        (lambda model: model["graph_module"]["graph"]["outputs"][0]["as_tensor"].update(name="nowhere"), "nowhere"),
        (lambda model: model["graph_module"]["signature"]["input_specs"].pop(), "inputs or outputs"),
    ],
)
def test_a_graph_that_contradicts_its_schema_is_malformed(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    with pytest.raises(MalformedFile, match=says):
        pipeline.load_model(Settings.load(rewritten(tmp_path, _graph(change))))


def test_every_request_starts_from_the_files_own_state(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(1)
            return x + self.count

    torch.export.save(torch.export.export(Counting(), (torch.zeros(2),)), tmp_path / "model.pt2")
    served = pipeline.load_model(Settings.load(tmp_path))
    assert [served.module(torch.zeros(2)).tolist() for _ in range(3)] == [[1.0, 1.0]] * 3


def test_sizes_that_the_program_was_not_exported_for_are_refused(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    rows = torch.export.Dim("rows", max=8)
    program = torch.export.export(Sum(), (torch.rand(4, 3), torch.rand(4, 3)), dynamic_shapes=({0: rows}, {0: rows}))
    torch.export.save(program, tmp_path / "model.pt2")
    module = pipeline.load_model(Settings.load(tmp_path)).module
    torch.testing.assert_close(module(torch.ones(1, 3), torch.ones(1, 3)), torch.full((1, 3), 2.0))
    for left, right in (((9, 3), (9, 3)), ((2, 3), (1, 3)), ((2, 4), (2, 4))):
        with pytest.raises(ValueError, match="dimension"):
            module(torch.rand(left), torch.rand(right))


def test_the_list_of_operators_is_the_one_that_was_looked_at() -> None:
    written = Path(__file__).with_name("operators.txt").read_text().split()
    found = {f"{name}.{overload}".rstrip(".") for name, overload in operators.scripted() | operators.functional()}
    found = {name for name in found if not name.startswith(("torchvision::", "quantized_decomposed::"))}
    assert sorted(found) == written
    assert not any(
        word in name for name in found for word in ("from_file", "::save", "load", "rpc", "profiler", "set_data")
    )


@pytest.mark.parametrize(
    "text", ["s0", "2*s0 + 1", "Max(1, s0//2)", "Symbol('s81', positive=True, integer=True)", "Eq(s0, 3)"]
)
def test_plain_expressions(text: str) -> None:
    symbols.parse(text)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "s0.__class__", "eval('1')", "(lambda: 1)()", "[s0 for s0 in x]", "open('x')", "f'{s0}'",
     "Max('__import__(1)')", "s0[0]", "Symbol('a b')", "Max(x=print)", "", "(" * 5000],
)  # fmt: skip
def test_expressions_that_could_run_something(text: str) -> None:
    with pytest.raises(symbols.NotAnExpression):
        symbols.parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2*s0 + 1", 11), ("-s0**2", -25), ("Mul(Integer(4), Symbol('s0', positive=True, integer=True))", 20),
     ("Max(1, s0//2)", 2), ("(s0 - 1) % 3 == 1", True), ("FloorDiv(s0, 2)", 2), ("2**-1", 0.5)],
)  # fmt: skip
def test_expressions_are_computed_as_python_computes_them(text: str, value: Any) -> None:
    assert symbols.parse(text)({"s0": 5}) == value


@pytest.mark.parametrize("text", ["2**s0", "LShift(1, s0)", "s0**s0", "s0*s0"])
def test_no_size_takes_all_memory(text: str) -> None:
    with pytest.raises(symbols.OutOfBounds):
        symbols.parse(text)({"s0": 10**12})
