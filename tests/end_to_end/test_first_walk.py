"""The way of a new user, from a file that they saved to a prediction, in at most three commands, with no source edited.

They trained a model of a class of their own in a script, saved it in one of the usual ways, and have nothing but the
script and the file. What the second command needs is copied from what the first one prints.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_server import environment

SCRIPT = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.enter, self.leave = nn.Linear(4, hidden), nn.Linear(hidden, 3)
        self.scale = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x):
        return self.leave(torch.sin(self.enter(x))) * self.scale


def train():
    torch.manual_seed(0)
    return Net()


net = train()
optimizer = torch.optim.Adam(net.parameters())
{save}
with open("expected.txt", "w") as file:
    file.write(str(net(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()))
"""

SAVED = {
    "bare state_dict": 'torch.save(net.state_dict(), "model.pt")',
    "training checkpoint": 'torch.save({"epoch": 3, "model_state_dict": net.state_dict(), '
    '"optimizer_state_dict": optimizer.state_dict(), "loss": 0.1}, "model.pt")',
    "whole model": 'torch.save(net, "model.pt")',
    "of another torch version": 'torch.save({"state_dict": net.state_dict(), "torch_version": "9.1.0"}, "model.pt")',
    "from several GPUs": 'torch.save(nn.DataParallel(net).state_dict(), "model.pt")',
}


class Walk:
    """A user's terminal: counts the commands."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, 0

    def types(self, *words: str, **variables: str) -> subprocess.CompletedProcess:
        self.commands += 1
        program = str(Path(sys.executable).parent / words[0])
        return subprocess.run(
            [program, *words[1:]], cwd=self.folder, capture_output=True, text=True, env=environment(**variables)
        )


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    (tmp_path / "request.json").write_text('{"data": [[1, 2, 3, 4]]}')
    return Walk(tmp_path)


def trained(walk: Walk, save: str) -> None:
    (walk.folder / "train.py").write_text(SCRIPT.replace("{save}", save))
    subprocess.run([sys.executable, "train.py"], cwd=walk.folder, check=True, env=environment())


def predicts(done: subprocess.CompletedProcess, walk: Walk) -> None:
    assert done.returncode == 0, done.stderr
    expected = json.loads((walk.folder / "expected.txt").read_text())
    assert json.loads(done.stdout)["predictions"] == [pytest.approx(expected[0], rel=1e-4)]
    assert walk.commands <= 3


@pytest.mark.parametrize(
    "how",
    [pytest.param(how, marks=() if how == "bare state_dict" else pytest.mark.slow) for how in SAVED],
)
def test_from_the_file_to_a_prediction(how: str, walk: Walk) -> None:
    trained(walk, SAVED[how])
    written = (walk.folder / "model.pt").stat().st_mtime_ns
    refused = walk.types("score", "check", "model.pt")
    assert refused.returncode == 3
    assert "train.py beside the checkpoint defines Net" in refused.stderr
    (variable,) = re.findall(r"SCORE_TRUST_SHA256=[0-9a-f]{64}(?=\s*$)", refused.stderr, re.M)
    name, digest = variable.split("=")
    predicts(walk.types("score", "predict", "request.json", "--model", "model.pt", **{name: digest}), walk)
    assert (walk.folder / "model.pt").stat().st_mtime_ns == written  # it was not trained again


def test_from_a_wrong_path(walk: Walk) -> None:
    trained(walk, SAVED["bare state_dict"])
    os.renames(walk.folder / "model.pt", walk.folder / "outputs" / "best" / "weights.pth")
    (walk.folder / "train.py").rename(walk.folder / "outputs" / "best" / "train.py")
    wrong = walk.types("score", "check", "outputs/best.pt")
    assert wrong.returncode == 3
    assert "does not exist" in wrong.stderr
    assert "best" in wrong.stderr.partition("does not exist")[2]  # what is there, beside it
    refused = walk.types("score", "check", "outputs")
    digest = re.findall(r"SCORE_TRUST_SHA256=([0-9a-f]{64})", refused.stderr)[0]
    done = walk.types("score", "predict", "request.json", "--model", "outputs", SCORE_TRUST_SHA256=digest)
    predicts(done, walk)
