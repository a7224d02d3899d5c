"""What public projects' checkpoints look like: where the weights sit, what surrounds them, and what is none.

Each is written both by today's torch.save and in the older format, which is not rare in the wild.
"""

import argparse
import collections
import datetime
import functools
import io
import pathlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from score.errors import LoadError, SeveralWeights
from score.formats.registry import detect, open_checkpoint
from score.inference import pipeline
from score.settings import Settings
from score.weights import select
from score.weights.align import align

SAVERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda value, path: torch.save(value, path),
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
}


class Net(nn.Module):
    """The project's network."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)


class Config:
    """The project's configuration."""

    def __init__(self) -> None:
        self.lr, self.layers = 0.1, [1, 2]


class AttributeDict(dict):
    """As Lightning's: a dict that holds classes and functions."""


class Trainer:
    """A trainer that was pickled as a whole."""

    def __init__(self) -> None:
        self.net, self.epoch = Net(), 3


def state(prefix: str = "") -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return collections.OrderedDict((f"{prefix}{name}", value) for name, value in Net().state_dict().items())


def optimizer() -> dict[str, Any]:
    model = Net()
    adam = torch.optim.Adam(model.parameters())
    model.fc(torch.ones(1, 4)).sum().backward()
    adam.step()
    return adam.state_dict()


def hyper_parameters() -> AttributeDict:
    return AttributeDict(lr=0.1, cls=Net, loss=nn.functional.mse_loss, part=functools.partial(print, "x"))


FOUND: dict[str, tuple[Callable[[], Any], str]] = {
    "root": (state, ""),
    "state_dict": (lambda: {"state_dict": state(), "arch": "net"}, "state_dict"),
    "model": (lambda: {"model": state(), "iteration": 3}, "model"),
    "model_state_dict": (lambda: {"model_state_dict": state(), "optimizer_state_dict": optimizer()}, "model_state_dict"),
    "model.state_dict": (lambda: {"model": {"state_dict": state()}}, "model.state_dict"),
    "net": (lambda: {"net": state(), "acc": 93.1, "epoch": 200}, "net"),
    "weights": (lambda: {"weights": state()}, "weights"),
    "model_state": (lambda: {"model_state": state(), "scheduler": {"base_lrs": [torch.ones(1)]}}, "model_state"),
    "step, model, opt, ema": (lambda: {"step": 1, "model": state(), "opt": optimizer(), "ema": state()}, "model"),
    "list of one": (lambda: [state()], "0"),
    "module": (Net, ""),
    "module under model": (lambda: {"model": Net(), "epoch": 3}, "model"),
    "module under net": (lambda: {"net": Net().half(), "opt": optimizer()}, "net"),
    "module in a list": (lambda: [Net(), 0.93], "0"),
    "module in a trainer": (Trainer, "net"),
    "namespace around": (lambda: {"args": argparse.Namespace(lr=0.1), "state_dict": state()}, "state_dict"),
    "config around": (lambda: {"cfg": Config(), "model": state()}, "model"),
    "numpy around": (lambda: {"best": np.float64(0.5), "curve": np.arange(5), "model": state()}, "model"),
    "datetime and path around": (
        lambda: {"when": datetime.datetime(2020, 1, 1), "where": pathlib.PurePosixPath("/x"), "model": state()}, "model",
    ),
    "defaultdict around": (lambda: {"log": collections.defaultdict(list, loss=[1.0]), "model": state()}, "model"),
    "lightning": (
        lambda: {
            "state_dict": state("model."), "hyper_parameters": hyper_parameters(), "optimizer_states": [optimizer()],
            "lr_schedulers": [{}], "callbacks": {"EarlyStopping": {"best_score": torch.tensor(0.1)}}, "epoch": 3,
        }, "state_dict",
    ),
    "RNG states around": (
        lambda: {"rng": torch.get_rng_state(), "cuda_rng_state": [torch.get_rng_state()], "model": state()}, "model",
    ),
    "pruning masks beside": (lambda: {"masks": {"fc": torch.ones(300, 4)}, "state_dict": state()}, "state_dict"),
    "config beside weights at the root": (lambda: {**state(), "config": {"width": 4}, "epoch": 3}, ""),
    "nested containers at the root": (lambda: {"a": [{"b": ({"c": state()},)}]}, "a.0.b.0.c"),
}  # fmt: skip


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("name", FOUND)
def test_the_weights_are_found(tmp_path: Path, name: str, saver: str) -> None:
    make, path = FOUND[name]
    torch.manual_seed(2)
    SAVERS[saver](make(), tmp_path / "model.pt")
    weights = select.choose(open_checkpoint(tmp_path / "model.pt"))
    assert weights.path == path
    assert weights.parameters == 15
    aligned = align({"fc.weight": (3, 4), "fc.bias": (3,)}, weights.shapes())
    assert aligned.exact
    wanted = state()["fc.weight"]
    assert torch.allclose(weights.tensors[aligned.mapping["fc.weight"]].load().float(), wanted, atol=1e-3)


def test_what_surrounds_the_weights_is_shown_where_it_is_plain(tmp_path: Path) -> None:
    value = {
        "model": state(), "args": argparse.Namespace(lr=0.1, name="x"), "best": np.float64(0.5), "note": "hello",
        "hyper_parameters": hyper_parameters(), "when": datetime.datetime(2020, 1, 1),
    }  # fmt: skip
    torch.save(value, tmp_path / "model.pt")
    shown = open_checkpoint(tmp_path / "model.pt").metadata
    assert shown["args"] == {"lr": 0.1, "name": "x"}
    assert (shown["best"], shown["note"]) == (0.5, "hello")
    assert shown["hyper_parameters"]["lr"] == 0.1
    assert shown["hyper_parameters"]["cls"] == "tests.test_survey.Net"


def test_omegaconf_around_the_weights(tmp_path: Path) -> None:
    class DictConfig:
        """As omegaconf's: its content lies in its state."""

        def __init__(self) -> None:
            self._content = {"lr": 0.1}

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    buffer = io.BytesIO()
    torch.save({"cfg": argparse.Namespace(a=1), "model": state()}, buffer)
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(
                name, old.read(name).replace(b"cargparse\nNamespace\n", b"comegaconf.dictconfig\nDictConfig\n")
            )
    checkpoint = open_checkpoint(path)
    assert checkpoint.unsafe_globals == ("omegaconf.dictconfig.DictConfig",)
    assert select.choose(checkpoint).path == "model"


def test_code_pickled_by_value(tmp_path: Path) -> None:
    """cloudpickle writes functions as their bytecode; it stays where it is."""

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.act = lambda x: x + 1

    Local.__module__ = "__main__"
    torch.save(Local(), tmp_path / "model.pt", pickle_module=cloudpickle)
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert select.choose(checkpoint).parameters == 15
    assert any("cloudpickle" in name for name in checkpoint.unsafe_globals)


@pytest.mark.parametrize(
    "prefix", ["module.", "module.module.", "module.dncnn.", "model.", "base_model.model.", "_orig_mod.module."]
)
def test_the_prefixes_are_stripped_against_the_target(tmp_path: Path, prefix: str) -> None:
    torch.save({"state_dict": state(prefix)}, tmp_path / "model.pt")
    served = pipeline.load_model(Settings.load(tmp_path, architecture=f"{__name__}:Net"))
    assert served.report.prefix == prefix


@pytest.mark.parametrize("prefix", ["encoder.", "backbone.", "actor.", "fc."])
def test_a_real_submodule_is_no_prefix(tmp_path: Path, prefix: str) -> None:
    from score.cli.inspection import inspect

    torch.save(state(prefix), tmp_path / "model.pt")
    assert inspect(tmp_path, Settings.load(tmp_path))["prefix"] == ""


@pytest.mark.parametrize("kind", ["torch.FloatTensor", "torch.cuda.FloatTensor"])
def test_a_tensor_pickled_before_0_4(tmp_path: Path, kind: str) -> None:
    """A tensor class, made empty, and BUILD with (storage, offset, size, stride)."""
    values = torch.arange(6.0)
    module, _, name = kind.rpartition(".")
    storage = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    tensor = f"c{module}\n{name}\n".encode() + b")R" + storage + b"K\x00(K\x02K\x03t(K\x03K\x01ttb"
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s.")
        archive.writestr("model/data/0", values.numpy().tobytes())
    weights = select.choose(open_checkpoint(tmp_path / "model.pt"))
    assert weights.tensors["w"].load().tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "name", ["model.pth.tar", "model.t7", "model.pt2", "model.jpg.bin", "checkpoint", "model.onnx"]
)
@pytest.mark.parametrize("saver", SAVERS)
def test_extensions_lie(tmp_path: Path, name: str, saver: str) -> None:
    SAVERS[saver](state(), tmp_path / name)
    assert detect(tmp_path / name) == f"torch-{saver}"
    assert select.choose(open_checkpoint(tmp_path / name)).parameters == 15


def test_config_beside_weights_in_two_files(tmp_path: Path) -> None:
    """`model.pt` holds the configuration, `state.pt` the weights: only one of them is a checkpoint to serve."""
    torch.save({"width": 4, "name": "net"}, tmp_path / "model.pt")
    torch.save(state(), tmp_path / "state.pt")
    torch.save(optimizer(), tmp_path / "optimizer.pt")
    served = pipeline.load_model(Settings.load(tmp_path, architecture=f"{__name__}:Net"))
    assert served.report.path.endswith("state.pt")


def test_several_networks_with_no_single_model(tmp_path: Path) -> None:
    value = {"generator": state(), "discriminator": nn.Linear(2, 2).state_dict(), "steps": 3}
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(SeveralWeights, match="2 mappings"):
        select.choose(open_checkpoint(tmp_path / "model.pt"))
    split = {f"net_{number}": Net() for number in range(1, 4)}
    torch.save(split, tmp_path / "model.pt")
    with pytest.raises(SeveralWeights, match="3 mappings"):
        select.choose(open_checkpoint(tmp_path / "model.pt"))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "git-lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize 3\n"), "git-lfs pointer"),
    "link": (lambda path: path.write_text("../../blobs/0a1b"), "text of a symbolic link"),
    "empty": (lambda path: path.write_bytes(b""), "an empty file"),
    "lone tensor": (lambda path: torch.save(torch.ones(2, 3), path), "a single tensor of shape [2, 3]"),
    "LoRA": (
        lambda path: torch.save({f"base_model.model.q.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}, path),
        "an adapter (LoRA) only",
    ),
    "optimizer": (lambda path: torch.save(optimizer(), path), "an optimizer's state only"),
    "scheduler": (
        lambda path: torch.save({"base_lrs": [0.1], "last_epoch": 3, "_step_count": 4}, path), "a scheduler's state only",
    ),
    "RNG": (lambda path: torch.save({"python": 1, "numpy": 2, "cpu": torch.get_rng_state()}, path), "random number"),
    "training arguments": (lambda path: torch.save(argparse.Namespace(learning_rate=1, output_dir="x"), path), "arguments"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_weights_has_its_own_message(tmp_path: Path, name: str) -> None:
    make, says = REFUSED[name]
    make(tmp_path / "model.bin")
    with pytest.raises(LoadError) as caught:
        pipeline.load_model(Settings.load(tmp_path))
    assert says in caught.value.message
    assert caught.value.hint


def test_all_those_messages_differ(tmp_path: Path) -> None:
    messages = set()
    for make, _ in REFUSED.values():
        make(tmp_path / "model.bin")
        with pytest.raises(LoadError) as caught:
            pipeline.load_model(Settings.load(tmp_path))
        messages.add(caught.value.message)
    assert len(messages) == len(REFUSED)
