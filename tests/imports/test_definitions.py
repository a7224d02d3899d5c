"""A file that is named for a class is read for its definitions: nothing in it trains, and nothing is overwritten."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from score.cli.app import app
from score.errors import ArchitectureBroken
from score.inference import pipeline
from score.settings import Settings

SCRIPT = """
import argparse, os, sys
import matplotlib_that_is_not_here as plt
from torchvision_that_is_not_here import transforms
import torch
from dataclasses import dataclass
from functools import partial
from torch import nn

Layer = partial(nn.Linear, bias=True)
WIDTH = 2 * 2
SIZES = dict(out=int("3"))
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Config:
    width: int = WIDTH


class Net(nn.Module):
    def __init__(self, config: Config = Config()):
        super().__init__()
        self.fc = Layer(config.width, SIZES["out"])

    def forward(self, x):
        return self.fc(x)


class Needs(Net):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(loaded["n"], 1)


class Absent(transforms.Compose):
    pass


try:
    import fast_that_is_not_here
except ImportError:
    fast = None
    open("{marker}", "w").write("handled")

if not os.path.exists("/nowhere"):
    open("{marker}", "w").write("ran")

loaded = torch.load("{model}")
for epoch in range(3):
    torch.save({{}}, "{model}")
with open("{marker}", "w") as file:
    file.write("ran")
net = Net()
parser = argparse.ArgumentParser().parse_args()
torch.save(net.state_dict(), "{model}")
sys.exit("trained")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.save(nn.Sequential(nn.Linear(4, 3)).state_dict(), tmp_path / "model.pt")
    state = {name.replace("0.", "fc."): value for name, value in torch.load(tmp_path / "model.pt").items()}
    torch.save(state, tmp_path / "model.pt")
    text = SCRIPT.format(marker=tmp_path / "ran", model=tmp_path / "model.pt")
    (tmp_path / "train.py").write_text(text)
    return tmp_path


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()


@pytest.mark.parametrize("command", ["check", "package", "convert"])
def test_a_training_script_gives_its_class_and_does_not_train(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("SCORE_ARCHITECTURE", "train.py:Net")
    before, out = _digest(folder), tmp_path_factory.mktemp("out")
    more = {
        "check": [],
        "package": ["-o", str(out / "package")],
        "convert": [str(out / "x.pt2"), "--to", "torch-export"],
    }
    done = CliRunner().invoke(app, [command, str(folder / "model.pt"), *more[command]])
    assert done.exit_code == 0, done.output
    assert _digest(folder) == before
    assert sorted(item.name for item in folder.iterdir()) == ["model.pt", "train.py"]  # not even bytecode
    assert "train" not in sys.modules


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Needs", r"line \d+ of train.py gives loaded, and does work"),
        ("Absent", "from torchvision_that_is_not_here, which is not installed"),
        ("net", r"line \d+ of train.py gives net, and does work"),
    ],
)
def test_what_can_not_be_had_without_running_the_file_is_said(name: str, says: str, folder: Path) -> None:
    with pytest.raises(ArchitectureBroken, match=says):
        pipeline.load_model(Settings.load(folder / "model.pt", architecture=f"train.py:{name}"))
    assert not (folder / "ran").exists()


def test_with_trust_one_file_that_is_broken_does_not_stop_another(folder: Path) -> None:
    (folder / "another.py").write_text("class Broken(:\n")
    (folder / "yet.py").write_text(
        "raise RuntimeError('no')\nimport missing_xyz\nclass Other(missing_xyz.Base): pass\n"
    )
    served = pipeline.load_model(Settings.load(folder / "model.pt", trust_code=True))
    assert served.report.architecture == "train.py:Net"
    assert not (folder / "ran").exists()


def test_a_constructor_that_needs_a_package_says_to_install_it(folder: Path) -> None:
    (folder / "net.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        import missing_xyz.sub\n"
    )
    with pytest.raises(ArchitectureBroken) as caught:
        pipeline.load_model(Settings.load(folder / "model.pt", architecture="net.py:Net"))
    assert caught.value.hint == "Install it: pip install missing_xyz"
