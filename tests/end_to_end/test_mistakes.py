"""Fifteen usual mistakes, each mended by pasting what the screen ends in: after at most two commands the model is ready
to serve, or the screen says exactly why it can't be.
"""

import contextlib
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from score.cli.app import app

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10, width=16):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))
"""
TRAINING = (
    NET
    + """
model = Net(int("5"))
raise SystemExit("this would train again")
"""
)


def net(num_classes: int = 10) -> torch.nn.Module:
    namespace: dict[str, type] = {"__name__": "training"}
    exec(compile(NET, "net.py", "exec"), namespace)  # the text above
    torch.manual_seed(0)
    found: torch.nn.Module = namespace["Net"](num_classes)
    return found


@dataclass(frozen=True)
class Mistake:
    """What lies in the folder, what a person types first, and what it comes to: ready, or the code of the reason."""

    make: Callable[[Path], None]
    typed: str
    ends: str = "ready to serve"


def script(state: object, name: str = "model.pt", code: str = NET, file: str = "net.py") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / file).write_text(code)
        torch.save(state() if callable(state) else state, folder / name)

    return make


def from_main(folder: Path) -> None:
    """torch.save(model) in the training script itself: the class is `__main__.Net`."""
    (folder / "train.py").write_text(NET + 'if __name__ == "__main__":\n    torch.save(Net(5), "model.pt")\n')
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True)


def lightning(folder: Path) -> None:
    (folder / "net.py").write_text(NET)
    state = {f"model.{name}": value for name, value in net(4).state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"num_classes": 4, "lr": 0.1}, "epoch": 3,
                "pytorch-lightning_version": "2.5.0"}, folder / "model.ckpt")  # fmt: skip


def damaged(folder: Path) -> None:
    script(net().state_dict())(folder)
    content = bytearray((folder / "model.pt").read_bytes())
    at = content.index(net().state_dict()["head.weight"].numpy().tobytes()[:16])
    content[at] ^= 255
    (folder / "model.pt").write_bytes(content)


def truncated(folder: Path) -> None:
    script(net().state_dict())(folder)
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])


def pointer(folder: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234567\n"
    (folder / "model.pt").write_text(text)


def class_only(folder: Path) -> None:
    code = NET + 'if __name__ == "__main__":\n    torch.save(Net, "model.pt")\n'
    (folder / "train.py").write_text(code)
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True)


def two(folder: Path) -> None:
    script(net().state_dict())(folder)
    torch.save(net().state_dict(), folder / "best.pt")


def prefixed(*names: str) -> dict[str, torch.Tensor]:
    return {f"{'.'.join(names)}.{name}": value for name, value in net().state_dict().items()}


def on_cuda(folder: Path) -> None:
    """A state saved on a GPU: the same file, whose storages say that they lay on cuda:0."""
    script(net().state_dict())(folder)
    with zipfile.ZipFile(folder / "model.pt") as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))


BESIDE = "score check model.pt --trust net.py"
MISTAKES = {
    "the class is in the training script": Mistake(
        script(lambda: net(10).state_dict(), code=TRAINING, file="train.py"), "score check model.pt"
    ),
    "another number of classes": Mistake(
        script(lambda: net(5).state_dict()), "score check model.pt --architecture net.py:Net"
    ),
    "torch.save(model) from __main__": Mistake(from_main, "score check model.pt"),
    "half precision": Mistake(script(lambda: net().half().state_dict()), BESIDE),
    "the class under any wrapper": Mistake(
        script(lambda: {"epoch": 3, "best": {"student_net": net().state_dict()}, "optimizer": {}}), BESIDE
    ),
    "damaged bytes": Mistake(damaged, "score check model.pt", "malformed_file"),
    "two files": Mistake(two, "score check . --trust net.py"),
    "the class is beside": Mistake(script(lambda: net().state_dict()), "score check ."),
    "an optimizer only": Mistake(
        script(lambda: torch.optim.Adam(net().parameters()).state_dict()), "score check model.pt", "no_weights"
    ),
    "the class only": Mistake(class_only, "score check model.pt", "no_weights"),
    "a pointer of Git LFS": Mistake(pointer, "score check model.pt", "foreign_format"),
    "a truncated file": Mistake(truncated, "score check model.pt", "truncated_file"),
    "DataParallel and compile": Mistake(script(lambda: prefixed("_orig_mod", "module")), BESIDE),
    "Lightning with hyper_parameters": Mistake(lightning, "score check model.ckpt"),
    "tensors of a GPU": Mistake(on_cuda, BESIDE),
}


def run(command: str, folder: Path) -> tuple[int, str]:
    words = shlex.split(command)
    assert words[0] == "score"
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, words[1:])
    return done.exit_code, done.output


@pytest.mark.parametrize("name", MISTAKES)
def test_pasting_what_the_screen_ends_in(name: str, tmp_path: Path) -> None:
    mistake = MISTAKES[name]
    mistake.make(tmp_path)
    command = mistake.typed
    for _ in range(3):  # what was typed, and two pastes
        code, screen = run(command, tmp_path)
        last = screen.rstrip().splitlines()[-1]
        if not last.startswith("score check"):
            break
        command = last
    if mistake.ends == "ready to serve":
        assert (code, last) == (0, "ready to serve"), screen
    else:
        assert code == 3
        assert f"ERROR {mistake.ends}:" in screen
        assert last.startswith("More: "), screen
