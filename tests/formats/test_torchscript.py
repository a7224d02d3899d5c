"""torchscript: served as torch serves it, from an archive of our own; what is not allowed needs trust."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.errors import LoadError, MalformedFile, UntrustedCode
from score.formats import torchscript
from score.formats._program import script_code
from score.formats.base import Program
from score.inference import pipeline
from score.settings import Settings

CPU = torch.device("cpu")


class Rich(nn.Module):
    """Text, lists, dicts, loops, shared modules, tensors in lists, an LSTM that keeps its weights twice."""

    names: list[str]
    sizes: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.again = self.first
        self.names, self.sizes, self.kept = ["a\n'\"\\ é", "b"], {"x": 1}, [torch.arange(3.0)]
        self.lstm = nn.LSTM(3, 3)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        z = self.again(self.first(torch.cat([x, x[:, :1]], 1)[:, :4]) @ torch.ones(3, 4, device=x.device)) * self.scale
        for at in range(3):
            z = z + at
            if bool(z.sum() > 1e6):
                break
        count = 0
        while count < 3:
            count += 1
        out, _ = self.lstm(z[None])
        found = {"z": z + self.kept[0], "out": out[0], "count": torch.tensor([count, len(self.names[0])])}
        if y is not None:
            found["y"] = nn.functional.gelu(y, approximate="tanh")
        return found


def rewritten(module: Any, folder: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    torch.jit.save(module, folder / "plain.pt")
    path = folder / "model.pt"
    with zipfile.ZipFile(folder / "plain.pt") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    (folder / "plain.pt").unlink()
    return path


def test_a_program_answers_as_torch_has_it_answer(tmp_path: Path) -> None:
    module = torch.jit.script(Rich().eval())
    module.save(tmp_path / "model.pt")
    checkpoint = torchscript.open(tmp_path / "model.pt", "auto")
    assert isinstance(checkpoint, Program)
    assert checkpoint.code == ()
    ours, theirs = checkpoint.build(CPU), torch.jit.load(tmp_path / "model.pt")
    x = torch.rand(5, 4)
    for given in ((x,), (x, x)):
        torch.testing.assert_close(ours(*given), theirs(*given))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    weight = ours.lstm.weight_ih_l0  # what is kept twice stays one tensor
    assert ours.lstm._flat_weights[0].data_ptr() == weight.data_ptr()


def test_the_weights_are_views_of_the_file(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(300, 300)).save(tmp_path / "model.pt")
    checkpoint = torchscript.open(tmp_path / "model.pt", "mmap")
    assert isinstance(checkpoint, Program)
    module = checkpoint.build(CPU)
    assert module.weight.data_ptr() == checkpoint.tree["weight"].load().data_ptr()


def test_a_traced_and_a_frozen_program(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    x = torch.rand(2, 1, 8, 8)
    traced = torch.jit.trace(module, x)
    for name, program in {"traced": traced, "frozen": torch.jit.freeze(torch.jit.script(module))}.items():
        program.save(tmp_path / f"{name}.pt")
        served = pipeline.load_model(Settings.load(tmp_path / f"{name}.pt", device="cpu"))
        torch.testing.assert_close(served.module(x), module(x))


def test_a_dynamically_quantised_program(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, torch.qint8)
    torch.jit.script(quantised).save(tmp_path / "model.pt")
    x = torch.rand(3, 8)
    served = pipeline.load_model(Settings.load(tmp_path / "model.pt", device="cpu"))
    torch.testing.assert_close(served.module(x), quantised(x))


class FromFile(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("/tmp/score-was-here", True, 4)[0]


class Saves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "/tmp/score-was-here")
        return x


class SavesAsItIsRead(nn.Module):
    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.training = state[1]
        torch.save(state[0], "/tmp/score-was-here")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class SetState(SavesAsItIsRead):
    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.training = state[1]
        while True:
            pass


@torch.jit.interface
class Any1(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class Impl(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Interface(nn.Module):
    part: Any1

    def __init__(self) -> None:
        super().__init__()
        self.part = Impl()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part.forward(x)


class Waits(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(torch.relu, x))


UNTRUSTED = {
    FromFile: "aten::from_file",
    Saves: "aten::save",
    SavesAsItIsRead: "__setstate__",
    SetState: "__setstate__",
    Interface: "another kind than a module",
    Waits: "fork",
}


@pytest.mark.parametrize("kind", UNTRUSTED, ids=lambda kind: kind.__name__)
def test_what_is_not_on_the_list_needs_trust(kind: type[nn.Module], tmp_path: Path) -> None:
    marker = Path("/tmp/score-was-here")
    torch.jit.save(torch.jit.script(kind()), tmp_path / "model.pt")
    marker.unlink(missing_ok=True)
    with pytest.raises(UntrustedCode) as caught:
        pipeline.load_model(Settings.load(tmp_path / "model.pt"))
    assert UNTRUSTED[kind] in caught.value.detail
    assert not marker.exists()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('return torch.load("x")', "aten::load"),
        ("return __import__(x)", "__import__"),
        ("torch = x\n    return x", "a variable called torch"),
        ("return x.__class__", "__class__"),
        ("return ops.profiler.record(x)", "profiler::record"),
        ("return __torch__.torch.classes.dist_rpc.Work(x)", "dist_rpc"),
        ("return (lambda: x)()", "a call of"),
        ("import os\n    return x", "Import"),
        ("return [y for y in x]", "ListComp"),
        ("return f'{x}'", "JoinedStr"),
        ("_0 = __torch__.nowhere.f\n    return _0(x)", "nowhere"),
        ("return torch.ops.aten.from_file(x)", "torch.ops.aten.from_file"),
        ('return x.save("y")', "aten::save"),
        ("print(x)\n    return x", "print"),
    ],
)
def test_text_that_is_not_of_the_language(body: str, says: str) -> None:
    text = f"class M(Module):\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    {body}\n"
    code = script_code.read({"code/__torch__.py": text}, "model.pt")
    assert any(says in finding for finding in code.findings), code.findings


def test_a_method_that_has_an_operators_name_is_judged_as_one() -> None:
    text = (
        "class M(Module):\n  def save(self: __torch__.M, x: str) -> str:\n    return x\n"
        '  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    _0 = (x).save("/tmp/x")\n    return x\n'
    )
    assert "the operator aten::save" in script_code.read({"code/__torch__.py": text}, "model.pt").findings


@pytest.mark.parametrize("text", ["class (", "(" * 3000, "x = 1 +", "\0"])
def test_text_that_is_no_text_is_malformed(text: str) -> None:
    with pytest.raises(MalformedFile):
        script_code.read({"code/__torch__.py": text}, "model.pt")


def test_only_what_was_read_here_reaches_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other records, a second copy of the code, source maps: torch sees none of it."""
    given: list[str] = []
    load = torch.jit.load

    def loading(file: Any, **kwargs: Any) -> Any:
        with zipfile.ZipFile(file) as archive:
            given.extend(name.partition("/")[2] for name in archive.namelist())
        return load(file, **kwargs)

    monkeypatch.setattr(torch.jit, "load", loading)
    path = rewritten(torch.jit.script(nn.Linear(3, 2)), tmp_path, lambda name, content: content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("plain/extra/evil.py", "import os")
        archive.writestr("plain/bytecode.pkl", b"cos\nsystem\n(S'true'\ntR.")
    pipeline.load_model(Settings.load(path))
    assert not [name for name in given if "debug" in name or "evil" in name or "bytecode" in name]


@pytest.mark.parametrize(
    "pickled", [b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02c__torch__\nEvil\n)\x81}b.", b"\x80\x02N.", b"", b"\x80\x02]."]
)
def test_values_that_torchscript_does_not_write(pickled: bytes, tmp_path: Path) -> None:
    path = rewritten(
        torch.jit.script(nn.Linear(3, 2)), tmp_path, lambda name, content: pickled if name == "data.pkl" else content
    )
    with pytest.raises(LoadError):
        pipeline.load_model(Settings.load(path))


def test_a_program_with_a_damaged_record_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(30, 20)).save(tmp_path / "model.pt")
    content = bytearray((tmp_path / "model.pt").read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    content[info.header_offset + 400] ^= 1
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(MalformedFile, match="damaged"):
        pipeline.load_model(Settings.load(tmp_path / "model.pt"))
