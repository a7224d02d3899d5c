"""Loading by assignment: nothing copied, nothing random, nothing lost."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.errors import DeviceUnavailable, Uninitialised
from score.inference import device, pipeline
from score.settings import Settings
from tests.real_server import ROOT


def served(
    model: nn.Module, folder: Path, cls: str, state: dict[str, torch.Tensor] | None = None, **kwargs: Any
) -> nn.Module:
    torch.save(model.state_dict() if state is None else state, folder / "model.pt")
    settings = Settings.load(folder / "model.pt", architecture=f"{__name__}:{cls}", device="cpu", **kwargs)
    return pipeline.load_model(settings).module


class Rotary(nn.Module):
    """Computes what its checkpoint does not hold: a buffer and a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("frequencies", 1.0 / 10000 ** (torch.arange(4) / 4), persistent=False)
        self.scales = [torch.full((4,), 2.0)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(x * self.frequencies) * self.scales[0]
        return result


class Random(nn.Module):
    """Draws what its checkpoint does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("projection", torch.randn(4, 4), persistent=False)


class RandomByInit(nn.Module):
    """The same, by an initialiser."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("projection", nn.init.normal_(torch.empty(4, 4)), persistent=False)


class Tied(nn.Module):
    """An embedding that is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.embedding(x))
        return result


class Stubborn(nn.Module):
    """Can't be built on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(int(torch.tensor(4).item()), 2)


def test_the_weights_are_those_of_the_file_and_not_copied(tmp_path: Path) -> None:
    torch.save(nn.Linear(1000, 1000).state_dict(), tmp_path / "model.pt")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(1000, 1000)\n"
    )
    settings = Settings.load(tmp_path / "model.pt", architecture=f"{tmp_path / 'net.py'}:Net", read="mmap")
    module = pipeline.load_model(settings).module
    address = module.weight.data_ptr()
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("model.pt")]
    assert any(int(low, 16) <= address < int(high, 16) for low, high in (line.split()[0].split("-") for line in maps))
    assert not module.training
    assert not module.weight.requires_grad


def test_what_the_constructor_computes_is_computed(tmp_path: Path) -> None:
    model = Rotary()
    module = served(model, tmp_path, "Rotary")
    x = torch.rand(2, 4)
    with torch.inference_mode():
        assert torch.equal(module(x), model(x))


@pytest.mark.parametrize("cls", [Random, RandomByInit])
def test_what_the_constructor_draws_at_random_is_refused(tmp_path: Path, cls: type[nn.Module]) -> None:
    with pytest.raises(Uninitialised, match=r"draws 1 tensors at random .*: projection"):
        served(cls(), tmp_path, cls.__name__)


@pytest.mark.parametrize("kept", [["embedding.weight"], ["head.weight"], ["embedding.weight", "head.weight"]])
def test_tied_weights_stay_tied_whichever_is_there(tmp_path: Path, kept: list[str]) -> None:
    model = Tied()
    state = {name: value for name, value in model.state_dict().items() if name in kept}
    module: Any = served(model, tmp_path, "Tied", state)
    assert module.head.weight is module.embedding.weight
    assert torch.equal(module.head.weight, model.head.weight)


def test_a_counter_that_is_absent_is_zero(tmp_path: Path) -> None:
    state = {k: v for k, v in nn.BatchNorm2d(3).state_dict().items() if k != "num_batches_tracked"}
    torch.save(state, tmp_path / "model.pt")
    settings = Settings.load(
        tmp_path / "model.pt", architecture="torch.nn:BatchNorm2d", architecture_kwargs={"num_features": 3}
    )
    found = pipeline.load_model(settings)
    assert found.module.num_batches_tracked.item() == 0
    assert found.report.absent == ("num_batches_tracked",)


def test_a_class_that_needs_real_memory_to_be_built(tmp_path: Path) -> None:
    model = Stubborn()
    module: Any = served(model, tmp_path, "Stubborn")
    assert torch.equal(module.fc.weight, model.fc.weight)


def test_what_was_ignored_is_reported(tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in Stubborn().state_dict().items()} | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    found = pipeline.load_model(Settings.load(tmp_path, architecture=f"{__name__}:Stubborn"))
    assert (found.report.weights_path, found.report.prefix) == ("state_dict", "model.")
    assert found.report.ignored == ("loss.weight",)
    assert any("loss.weight" in line for line in found.report.lines())


class Upgrading(nn.Module):
    """Doubles what states of its first version hold, as modules do that changed their meaning."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[f"{prefix}scale"] = state[f"{prefix}scale"] * 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_module_is_told_which_version_of_its_state_it_loads(tmp_path: Path, prefix: str) -> None:
    holder = nn.ModuleDict({"module": Upgrading()}) if prefix else Upgrading()
    state: Any = holder.state_dict()
    torch.save(state, tmp_path / "new.pt")
    settings = {"architecture": f"{__name__}:Upgrading", "device": "cpu"}
    assert pipeline.load_model(Settings.load(tmp_path / "new.pt", **settings)).module.scale.tolist() == [1, 1, 1]
    del state._metadata
    torch.save(state, tmp_path / "old.pt")
    assert pipeline.load_model(Settings.load(tmp_path / "old.pt", **settings)).module.scale.tolist() == [2, 2, 2]


def test_half_precision_stays_half(tmp_path: Path) -> None:
    model = Tied().half()
    module: Any = served(model, tmp_path, "Tied")
    assert module.head.weight.dtype == torch.float16


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        device.choose("cuda:99", 0)
    assert device.found() in caught.value.message
    assert device.choose("cpu", 0) == torch.device("cpu")
    if not torch.cuda.is_available():
        assert device.choose("auto", 0) == torch.device("cpu")


def test_a_checkpoint_saved_on_a_gpu_loads_on_a_cpu(tmp_path: Path) -> None:
    # the pickle names the device of each storage; a file from a GPU differs in nothing else
    torch.save({"model": Tied().state_dict()}, tmp_path / "cpu.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "cpu.pt").read_bytes()
    assert b"X\x03\x00\x00\x00cpu" in content
    (tmp_path / "gpu.pt").write_bytes(content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:3"))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "gpu.pt")
    found = pipeline.load_model(Settings.load(tmp_path / "gpu.pt", architecture=f"{__name__}:Tied", device="cpu"))
    assert found.report.device == "cpu"
    assert found.report.metadata["devices"] == ["cuda:3"]


@pytest.mark.gpu
def test_the_gpu_is_taken_if_there_is_one(tmp_path: Path) -> None:
    model = Tied()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for setting in ("auto", "cuda", "cuda:0"):
        found = pipeline.load_model(
            Settings.load(tmp_path / "model.pt", architecture=f"{__name__}:Tied", device=setting)
        )
        assert all(value.is_cuda for value in found.module.state_dict().values())
        assert torch.equal(found.module.state_dict()["head.weight"].cpu(), model.head.weight)


@pytest.mark.gpu
def test_a_checkpoint_saved_on_a_gpu_and_back(tmp_path: Path) -> None:
    model = Tied().cuda()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = pipeline.load_model(Settings.load(tmp_path / "model.pt", architecture=f"{__name__}:Tied", device="cpu"))
    assert torch.equal(found.module.state_dict()["head.weight"], model.head.weight.cpu())


SCRIPT = """
import json, sys, threading, torch
from pathlib import Path
import score
score.load(sys.argv[1], device="cpu")  # imports transformers while parameters are left empty
import transformers
torch.manual_seed(0)
first = transformers.BertModel(transformers.BertConfig(**json.loads(sys.argv[2])))
threads = [threading.Thread(target=score.load, args=(sys.argv[1],), kwargs={"device": "cpu"}) for _ in range(8)]
[thread.start() for thread in threads]
torch.manual_seed(0)
second = transformers.BertModel(transformers.BertConfig(**json.loads(sys.argv[2])))
[thread.join() for thread in threads]
for model in (first, second):
    spread = model.state_dict()["encoder.layer.0.attention.self.query.weight"].std().item()
    assert 0.015 < spread < 0.025, spread
    assert torch.equal(model.state_dict()["encoder.layer.0.output.LayerNorm.weight"], torch.ones(32))
assert torch.nn.Linear(100, 100).weight.std() > 0.01
"""


def test_what_else_a_process_builds_is_initialised_as_ever(tmp_path: Path) -> None:
    """Loading leaves parameters empty; models that the caller builds afterwards, or in other threads, are not."""
    pytest.importorskip("transformers")
    from tests.inference.tasks import tiny

    folder = tiny.made("feature-extraction", tmp_path / "model")
    sizes = '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37}'
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), sizes], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
