"""torch-export: plain programs of all kinds are served; whatever torch would run from one needs trust."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from score.formats._pt2_audit import is_plain_expression
from torch import nn

from score import main
from score.errors import UntrustedCode
from score.formats.registry import open_checkpoint
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
    served = main.load_model(Settings.load(tmp_path, device="cpu"))
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


ATTACKS: dict[str, tuple[Callable[[str, bytes], bytes], str]] = {
    "a pickled weight": (_pickled_weight, "a pickle, for conv.weight"),
    "sample inputs that torch would unpickle": (_evil_samples, "posix.system"),
    "an operator by attributes": (_operator("torch.serialization.os.system"), "torch.serialization.os.system"),
    "an operator that loads native code": (_operator("torch.ops.load_library"), "torch.ops.load_library"),
    "an operator with dunders": (_operator("torch.ops.aten.__class__.__init__"), "__class__"),
    "a method by name": (_operator("_operator.methodcaller"), "_operator.methodcaller"),
    "an expression": (_graph(_expression), "__import__"),
    "a name that is source": (_graph(_name), "as Python source"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_torch_would_run_needs_trust(tmp_path: Path, name: str) -> None:
    marker = Path("/tmp/score-was-here")
    marker.unlink(missing_ok=True)
    change, says = ATTACKS[name]
    path = rewritten(tmp_path, change)
    contents = open_checkpoint(path)
    assert contents.program is not None
    assert any(says in finding for finding in contents.program.code), contents.program.code
    with pytest.raises(UntrustedCode) as caught:
        main.load_model(Settings.load(path))
    assert says in caught.value.detail
    assert not marker.exists()


@pytest.mark.parametrize(
    "text", ["s0", "2*s0 + 1", "Max(1, s0//2)", "Symbol('s81', positive=True, integer=True)", "Eq(s0, 3)"]
)
def test_plain_expressions(text: str) -> None:
    assert is_plain_expression(text)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "s0.__class__", "eval('1')", "(lambda: 1)()", "[s0 for s0 in x]", "open('x')", "f'{s0}'",
     "Max('__import__(1)')", "s0[0]", "Symbol('a b')", "Max(x=print)", "", "(" * 5000],
)  # fmt: skip
def test_expressions_that_could_run_something(text: str) -> None:
    assert not is_plain_expression(text)
