"""What commands import: nothing of the server where they do not serve, and no torch where they load nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.simple_model import SimpleModel
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
print("torch" if "torch" in sys.modules else "no torch", file=sys.stderr)
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
