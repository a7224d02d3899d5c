"""torch-zip and torch-legacy: every kind of tensor, against torch itself on the same file."""

import collections
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.errors import MalformedFile, VersionTooOld
from score.formats.base import TensorRef
from score.formats.registry import open_checkpoint
from score.weights import select

SAVERS = {
    "zip": lambda value, path: torch.save(value, path),
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
}


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    base = torch.randn(6, 7)
    found = {
        "plain": base,
        "transposed": base.t(),
        "view": base[2:5, 1::2],
        "same storage": base.view(7, 6),
        "expanded": torch.randn(3, 1).expand(3, 4),
        "0-d": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(3)),
        "frozen": nn.Parameter(torch.randn(3), requires_grad=False),
        "complex": torch.randn(3, dtype=torch.complex64),
        "bool": torch.tensor([True, False]),
    }
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int64,
                  torch.float8_e4m3fn, torch.float8_e5m2):  # fmt: skip
        found[str(dtype)] = torch.arange(4).to(dtype)
    return found


@pytest.mark.parametrize("saver", SAVERS)
def test_every_kind_of_tensor_comes_out_as_torch_reads_it(saver: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    SAVERS[saver](tensors(), path)
    # torch 2.13 can't read a float8 in a torch-legacy file that it has written itself; what was saved is known
    wanted = torch.load(path, weights_only=True) if saver == "zip" else tensors()
    weights = select.weights_of(open_checkpoint(path))
    assert weights is not None
    assert list(weights.tensors) == list(wanted)
    loaded = {name: ref.load() for name, ref in weights.tensors.items()}
    for name, tensor in wanted.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert loaded[name].shape == tensor.shape, name
        assert loaded[name].stride() == tensor.stride(), name
        assert torch.equal(loaded[name].view(torch.uint8) if tensor.element_size() == 1 else loaded[name],
                           tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor), name  # fmt: skip
    assert loaded["plain"].untyped_storage().data_ptr() == loaded["view"].untyped_storage().data_ptr()


class Holder:
    """A class of the test's own, as a project would pickle around its weights."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def _nested() -> dict[str, tuple[Any, str]]:
    state = nn.Linear(3, 2).state_dict()
    return {
        "root": (state, ""),
        "state_dict": ({"state_dict": state, "epoch": 3}, "state_dict"),
        "model.state_dict": ({"model": {"state_dict": state, "name": "x"}}, "model.state_dict"),
        "any name, any depth": ({"a": {"b": {"c": {"whatever": state}}}, "d": [1, 2]}, "a.b.c.whatever"),
        "with an optimizer": ({"net": state, "optim": {"state": {0: {"m": torch.ones(3)}}, "param_groups": []}}, "net"),
        "with optimizers of any name": ({"w": state, "g": [{"state": {}, "param_groups": [{"lr": 1}]}]}, "w"),
        "beside EMA": ({"params": state, "params_ema": state.copy()}, "params"),
        "step, model, opt, ema": (
            {"step": 1, "model": state, "opt": {"m": torch.ones(2)}, "ema": state.copy()},
            "model",
        ),
        "with RNG state": ({"weights": state, "rng_state": torch.get_rng_state(), "cuda_rng": []}, "weights"),
        "with a loss": ({"model_state": state, "best": {"loss": torch.tensor(0.1)}}, "model_state"),
        "element of a list": ([state, {"epoch": 2}], "0"),
        "in an object": (Holder(model=state, epoch=3), "model"),
        "an ordered dict": (collections.OrderedDict(model=collections.OrderedDict(state)), "model"),
    }


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("name", _nested())
def test_the_weights_are_found_under_any_name(name: str, saver: str, tmp_path: Path) -> None:
    value, path = _nested()[name]
    SAVERS[saver](value, tmp_path / "model.pt")
    weights = select.choose(open_checkpoint(tmp_path / "model.pt"))
    assert weights.path == path
    assert set(weights.tensors) == {"weight", "bias"}
    assert weights.kind == "weights"


@pytest.mark.parametrize("saver", SAVERS)
def test_nothing_is_imported_from_the_file(saver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SAVERS[saver]({"state": nn.Linear(3, 2).state_dict(), "config": Holder(lr=1)}, tmp_path / "model.pt")
    monkeypatch.setattr("builtins.__import__", _refuse_to_import_tests(__import__))
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.unsafe_globals == (f"{__name__}.Holder",)


def _refuse_to_import_tests(real: Any) -> Any:
    def importer(name: str, *args: Any, **kwargs: Any) -> Any:
        assert not name.startswith("tests"), name
        return real(name, *args, **kwargs)

    return importer


def test_unsafe_globals_are_those_that_torch_finds(tmp_path: Path) -> None:
    torch.save({"a": Holder(), "net": nn.Sequential(nn.Linear(2, 2), nn.ReLU())}, tmp_path / "model.pt")
    found = set(open_checkpoint(tmp_path / "model.pt").unsafe_globals)
    assert found == set(torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "model.pt"))


def test_a_newer_archive_names_the_version(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"99\n" if name.endswith("/version") else old.read(name))
    with pytest.raises(VersionTooOld, match="archive version 99"):
        open_checkpoint(tmp_path / "new.pt")


def test_a_newer_pickle_protocol_names_python(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x09}.")
    with pytest.raises(VersionTooOld, match="pickle protocol 9"):
        open_checkpoint(tmp_path / "model.pt")


def test_a_dtype_that_this_torch_lacks_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(3).to(torch.uint16)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"uint16", b"uint99"))
    with pytest.raises(VersionTooOld, match="uint99"):
        open_checkpoint(tmp_path / "new.pt")


def test_the_other_byte_order_is_turned(tmp_path: Path) -> None:
    values = torch.tensor([1.0, -2.5, 3e10])
    torch.save({"w": values, "h": values.half(), "c": torch.tensor([1 + 2j])}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        widths = {"model/data/0": 4, "model/data/1": 2, "model/data/2": 4}
        for name in old.namelist():
            content = b"big" if name.endswith("byteorder") else old.read(name)
            if width := widths.get(name):
                content = b"".join(content[at : at + width][::-1] for at in range(0, len(content), width))
            new.writestr(name, content)
    weights = select.choose(open_checkpoint(tmp_path / "big.pt"))
    assert torch.equal(weights.tensors["w"].load(), values)
    assert torch.equal(weights.tensors["h"].load(), values.half())
    assert weights.tensors["c"].load().tolist() == [1 + 2j]


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch /tmp/score-was-here",)


@pytest.mark.parametrize("saver", SAVERS)
def test_a_pickle_that_runs_a_command_yields_its_weights_and_runs_nothing(saver: str, tmp_path: Path) -> None:
    marker = Path("/tmp/score-was-here")
    marker.unlink(missing_ok=True)
    SAVERS[saver]({"state_dict": {"w": torch.ones(2, 2)}, "evil": Evil()}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    weights = select.choose(checkpoint)
    assert torch.equal(weights.tensors["w"].load(), torch.ones(2, 2))
    assert checkpoint.unsafe_globals == ("posix.system",)
    assert not marker.exists()


def test_strides_that_reach_past_the_storage_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4, 4)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as old, zipfile.ZipFile(tmp_path / "bad.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                before = b"K\x04K\x04\x86"
                assert before in content
                content = content.replace(before, b"K\x04K\x09\x86", 1)
            new.writestr(name, content)
    with pytest.raises(MalformedFile, match="reaches byte"):
        open_checkpoint(tmp_path / "bad.pt")


def test_a_reference_is_not_in_memory_until_it_is_loaded(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1000)}, tmp_path / "model.pt")
    tree = open_checkpoint(tmp_path / "model.pt").tree
    assert isinstance(tree["w"], TensorRef)
    assert "untyped" not in vars(tree["w"].storage)
