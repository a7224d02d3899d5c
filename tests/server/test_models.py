"""Several models in one server: found, named, loaded when they are asked for, unloaded when room is needed."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models.simple_model import SimpleModel
from score.errors import (
    InvalidSetting,
    LoadError,
    ModelNotNamed,
    ModelTooLarge,
    ModelUnloaded,
    NotSupported,
    QueueFull,
    UnknownModel,
)
from score.server import startup
from score.server.models import Models
from score.server.service import Service
from score.settings import Settings
from tests.weights.test_adapters import llama, lora, made

WIDTH = 512  # of a layer that takes a megabyte


def saved(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.save(SimpleModel().state_dict(), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at, name in enumerate(("cats.pt", "dogs.pt", "birds/model.pt")):
        saved(tmp_path / name, at)
    (tmp_path / "broken.pt").write_bytes((tmp_path / "cats.pt").read_bytes()[:900])
    return tmp_path


@pytest.fixture
def several(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    return started(folder, monkeypatch)


def started(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> Models:
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(folder))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return startup._found(Settings.load())


def test_each_has_a_name_and_is_loaded_when_it_is_asked_for(several: Models) -> None:
    assert several.names == ["birds", "broken", "cats", "dogs"]
    assert not several.loaded()
    with several.using("dogs") as service:
        assert (service.name, service.version) == ("dogs", "1")
    assert [each.name for each in several.loaded()] == ["dogs"]
    states = {each["name"]: (each["state"], each["reason"]) for each in several.index()}
    assert states["dogs"] == ("READY", "")
    assert states["cats"] == ("READY", "loaded on demand")


def test_one_that_can_not_be_loaded_says_why_and_disturbs_no_other(several: Models) -> None:
    for _ in range(2):
        with pytest.raises(LoadError, match="broken: "):
            several.take("broken")
    assert {each["name"]: each["state"] for each in several.index()}["broken"] == "UNAVAILABLE"
    with several.using("cats") as service:
        assert service.predictor(torch.ones(1, 10)).shape == (1, 2)


def test_names_that_are_wrong_or_missing(several: Models) -> None:
    with pytest.raises(UnknownModel, match="no model 'horses'; served here: birds, broken, cats, dogs"):
        several.take("horses")
    with pytest.raises(ModelNotNamed, match="4 models are served here"):
        several.take("")


def test_the_same_name_twice_becomes_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.pt", "a/y.pt", "b/x.pt", "b/z.pt", "z/z.pt"):
        saved(tmp_path / name)
    assert started(tmp_path, monkeypatch).names == ["a.x.pt", "y", "b.x.pt", "b.z.pt", "z.z.pt"]


def test_some_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(folder, monkeypatch, SCORE_MODELS="dogs, cats").names == ["dogs", "cats"]
    with pytest.raises(InvalidSetting, match="names 'horses', and the model folder holds birds, broken, cats, dogs"):
        started(folder, monkeypatch, SCORE_MODELS="horses")


def test_one_of_a_kind_needs_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "cats.pt")
    models = started(tmp_path, monkeypatch, SCORE_MODELS="all")
    with models.using("") as service:
        assert service.name == "cats"


def test_at_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = started(folder, monkeypatch, SCORE_LOAD_MODELS="at_start")
    assert {each.name for each in models.loaded()} == {"birds", "cats", "dogs"}


def test_unloaded_by_name_until_it_is_loaded_by_name(several: Models) -> None:
    several.load("cats")
    several.unload("cats")
    with pytest.raises(ModelUnloaded, match="cats was unloaded"):
        several.take("cats")
    assert not several.loaded()
    several.load("cats")
    with several.using("cats") as service:
        service.observer.snapshot()


def test_counters_outlive_the_model(several: Models) -> None:
    with several.using("cats") as service:
        observer = service.observer
    several.unload("cats")
    several.load("cats")
    assert several.observers()["cats"] is observer


def test_its_own_settings_are_in_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "birds" / "score.toml").write_text('labels = ["tit", "owl"]\n')
    models = started(folder, monkeypatch)
    with models.using("birds") as birds, models.using("cats") as cats:
        assert (birds.predictor.task.labels, cats.predictor.task.labels) == (("tit", "owl"), ())
    (folder / "birds" / "score.toml").write_text("trust_code = true\n")
    models.unload("birds")
    with pytest.raises(InvalidSetting, match=r"birds: score\.toml may not set trust_code"):
        models.load("birds")


class Wide(nn.Sequential):
    """A megabyte of weights."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH, bias=False))


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    for name in "abc":
        torch.jit.script(Wide()).save(tmp_path / f"{name}.pt")
    return tmp_path


def test_what_was_not_used_for_longest_makes_room(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = started(wide, monkeypatch, SCORE_MAX_MEMORY_MB="2.2", SCORE_INPUTS=f"float32[N, {WIDTH}]")
    for name in ("a", "b", "a", "c"):
        models.release(models.take(name))
    assert {each.name for each in models.loaded()} == {"a", "c"}
    models.release(models.take("b"))
    assert {each.name for each in models.loaded()} == {"b", "c"}


def test_what_is_in_use_is_not_unloaded(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = started(
        wide, monkeypatch, SCORE_MAX_MEMORY_MB="1.2", SCORING_TIMEOUT_MS="200", SCORE_INPUTS=f"float32[N, {WIDTH}]"
    )
    used = models.take("a")
    with pytest.raises(QueueFull, match="no room for b"):
        models.take("b")
    threading.Timer(0.05, models.release, (used,)).start()
    models.release(models.take("b"))
    assert {each.name for each in models.loaded()} == {"b"}


def test_one_that_is_larger_than_all_may_be(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = started(wide, monkeypatch, SCORE_MAX_MEMORY_MB="0.5", SCORE_INPUTS=f"float32[N, {WIDTH}]")
    with pytest.raises(ModelTooLarge, match=r"a: its weights take 1.0 MB, and SCORE_MAX_MEMORY_MB allows"):
        models.take("a")
    assert not models.loaded()


def test_a_base_model_that_several_share_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, (llama, lora("q_proj", "v_proj")))
    for name in ("second", "third"):
        shutil.copytree(tmp_path / "adapter", tmp_path / name)
    base = sum(each.nbytes for each in load_file(tmp_path / "base" / "model.safetensors").values())
    models = started(tmp_path, monkeypatch, SCORE_MAX_MEMORY_MB=str(1.9 * base / 1e6))
    names = ["adapter", "second", "base", "third"]
    for name in names:
        models.release(models.take(name))
    assert {each.name for each in models.loaded()} == set(names)


def test_the_only_model_of_a_server_stays(service: Service) -> None:
    models = Models.of_one(service)
    assert models.take(service.name) is models.take("") is service
    with pytest.raises(NotSupported, match="the only model"):
        models.unload(service.name)
    with pytest.raises(UnknownModel):
        models.unload("another")


def test_many_at_once_load_it_once(several: Models) -> None:
    found: list[Service] = []
    threads = [threading.Thread(target=lambda: found.append(several.take("cats"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    for each in found:
        several.release(each)
