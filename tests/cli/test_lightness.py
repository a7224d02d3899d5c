"""What commands import: nothing of the server where they do not serve, and no torch where they load nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.simple_model import SimpleModel
from score.formats import dtypes
from tests.makers import MAKERS, net
from tests.real_server import environment

SCRIPT = """
import sys
# As on a machine whose kernel has no epoll, such as macOS, and where nothing of the server could be imported.
import select
for name in ("epoll", "EPOLLIN", "EPOLLOUT"):
    delattr(select, name)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("gunicorn", "uvicorn", "uvloop", "httptools", "starlette", "flask", "a2wsgi"):
            raise ImportError(f"a command that does not serve imports {name}")
        if name.startswith("score.server"):
            raise ImportError(f"a command that does not serve imports {name}")
sys.meta_path.insert(0, Refuse())
from score.cli.app import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("torch" if "torch.nn" in sys.modules else "no torch", file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "torch_too"),
    [
        (["--help"], False),
        (["--version"], False),
        (["explain", "wrong_shape"], False),
        (["serve", "--help"], False),
        (["inspect", "model.pt", "--html", "page.html"], True),
        (["check", "model.pt"], True),
        (["predict", "request.json", "--model", "model.pt"], True),
        (["package", "model.pt", "-o", "out"], True),  # which converts
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_what_a_command_imports(arguments: list[str], torch_too: bool, tmp_path: Path) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    (tmp_path / "request.json").write_text('{"data": [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]}')
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == ("torch" if torch_too else "no torch")


NAMED = ("hf-dir", "gguf", "onnx", "openvino", "mlflow", "llama-consolidated", "torch-package", "aot-inductor")
SEVERAL = """
import json, sys
from typer.testing import CliRunner
from score.cli.app import app
for path in sys.argv[1:]:
    done = CliRunner().invoke(app, ["inspect", path, "--json"])
    found = json.loads(done.stdout)
    if found["format"] != "llama-consolidated":  # whose values torch computes
        shown = CliRunner().invoke(app, ["inspect", path])
        assert shown.exit_code == done.exit_code, shown.output
    print(json.dumps([found["format"], found.get("architecture"), "torch.nn" in sys.modules]))
import torch.nn.functional  # which is torch's own, whole, from here on
assert torch.nn.functional.relu(torch.tensor([-1.0])).item() == 0 and torch.float32.itemsize == 4
"""


def test_a_file_is_described_without_torch_where_its_class_is_named(tmp_path: Path) -> None:
    for name in NAMED:
        (tmp_path / name).mkdir()
        MAKERS[name](tmp_path / name)
    torch.save(net(), tmp_path / "whole.pt")
    torch.save({"net": net(), "epoch": 3}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html></html>")
    places = [*NAMED, "whole.pt", "legacy.pt", "page.pt"]
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, *places], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    found = {place: json.loads(line) for place, line in zip(places, done.stdout.splitlines(), strict=True)}
    assert not [place for place, (_, _, imported) in found.items() if imported]
    assert [found[name][0] for name in NAMED] == list(NAMED)
    assert found["whole.pt"][1] == found["legacy.pt"][1] == "tests.makers.Net"
    assert found["page.pt"][0] == "foreign"


def test_dtypes_are_torchs() -> None:
    known = {dtypes.name_of(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert {name: value.itemsize for name, value in known.items()} == dtypes.ITEMSIZE
    assert [name for name in known if dtypes.is_floating_point(name) != known[name].is_floating_point] == []
    assert all(dtypes.of(name) == value for name, value in known.items())
