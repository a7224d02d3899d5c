"""Ways to run a model: only those whose answers agree are used, for inputs that were tried, and as long as all is the
same as when they were found."""

import hashlib
import importlib.util
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score.errors import InvalidSetting
from score.inference import pipeline
from score.inference.predictor import Predictor
from score.inference.tuning import agreement, apply, samples, timing, trial, tuned_file
from score.inference.tuning.backends import BACKENDS, eager
from score.inference.tuning.backends.base import Built, Subject
from score.inference.tuning.swap import Fits, answer_of
from score.settings import Settings
from tests.inference.tasks import tiny

INPUTS = "float32[N, 12]"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured here is not what counts."""
    monkeypatch.setattr(timing, "MEASURED", 0.01)
    monkeypatch.setattr(trial, "COMPARED", 0.1)


def network(classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, classes)).eval()


def saved(folder: Path, classes: int = 5) -> Path:
    torch.save(network(classes), folder / "model.pt")
    return folder / "model.pt"


def loaded(path: Path, **said: Any) -> Predictor:
    return pipeline.load_model(Settings.load(path, **{"inputs": INPUTS, "tune_seconds": 60.0, **said}))


def kept(path: Path, names: Sequence[str], **said: Any) -> Path:
    """Tune a model among some backends, and keep what was found."""
    from score.cli import tune

    predictor = loaded(path, backend="eager", **said)
    outcome = apply.tune(predictor, list(names))
    assert outcome is not None
    return tune._kept(path, outcome, predictor.settings)


ROWS = torch.rand(3, 12, generator=torch.Generator().manual_seed(5))


def answers(predictor: Predictor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(predictor.predict({"input": ROWS})))


SLOW = ("onnxruntime", "openvino-bf16", "openvino-fp16", "fp16", "fp16-autocast", "int8-dynamic")


@pytest.mark.parametrize(
    "name",
    [*("openvino", "bf16", "bf16-autocast"), *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_each_backend_gives_torchs_answers(tmp_path: Path, name: str) -> None:
    if (why := BACKENDS[name].missing(torch.device("cpu"))) is not None:
        pytest.skip(why)
    served = loaded(saved(tmp_path, classes=1), backend=name, tolerance=0.05)
    assert served.running.backend == name and served.card()["backend"]["source"] == "SCORE_BACKEND"
    assert served.running.own_threads is name.startswith(("openvino", "onnxruntime"))
    with torch.inference_mode():
        wanted = network(classes=1)(ROWS)
    torch.testing.assert_close(answers(served), wanted, rtol=0.05, atol=0.05)
    assert served.outputs == {"output": ("float32", [1, 1])}


def test_a_network_of_convolutions_is_turned(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    torch.save(net, tmp_path / "model.pt")
    served = loaded(tmp_path / "model.pt", inputs="float32[N, 3, 16, 16]", backend="channels-last")
    pixels = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(np.asarray(served.predict({"input": pixels}))), net(pixels))


class Wrong:
    """A backend whose answers are a little off, or whose best class is another."""

    NAME = "wrong"

    def __init__(self, off: float) -> None:
        self.off = off

    def missing(self, device: torch.device) -> None:
        return None

    def build(self, subject: Subject) -> Built:
        return Built(lambda inputs: [value + self.off * value.abs().max() for value in subject.flat(*inputs)])


def test_one_that_does_not_agree_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "BACKENDS", {"eager": eager, "wrong": Wrong(0.01)})
    monkeypatch.setattr(apply, "BACKENDS", trial.BACKENDS)
    path = saved(tmp_path)
    assert loaded(path, backend="auto").running.backend == "eager"
    with pytest.raises(InvalidSetting, match="apart") as raised:
        loaded(path, backend="wrong")
    assert "SCORE_TOLERANCE" in raised.value.hint
    assert loaded(path, backend="wrong", tolerance=0.02).running.backend == "wrong"


def test_the_best_class_has_to_be_the_same() -> None:
    one, other = torch.tensor([[1.0, 1.0001]]), torch.tensor([[1.0001, 1.0]])
    found = agreement.between([one], [other])
    assert found.error < 1e-3 and (found.rows, found.same) == (1, 0)
    assert not found.holds(1e-3)


@pytest.mark.parametrize(
    ("wanted", "found", "holds"),
    [
        ([1.0, float("nan")], [1.0, float("nan")], True),
        ([1.0, float("inf")], [1.0, float("-inf")], False),
        ([1.0, 2.0], [1.0, float("nan")], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.0], [0.0, 1e-9], False),
        ([100.0, 2.0], [100.0, 2.05], True),
    ],
)
def test_answers_apart(wanted: list[float], found: list[float], holds: bool) -> None:
    assert agreement.between([torch.tensor(wanted)], [torch.tensor(found)]).holds(1e-3) is holds
    assert not agreement.between([torch.tensor(wanted)], [torch.tensor([found])]).holds(1.0)
    assert not agreement.between([torch.tensor(wanted)], []).holds(1.0)


def test_inputs_that_were_not_tried_go_to_the_module_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    class Counting(Wrong):
        def build(self, subject: Subject) -> Built:
            def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
                ran.append(len(inputs[0]))
                return subject.flat(*inputs)  # type: ignore[no-any-return]

            return Built(run)

    monkeypatch.setattr(trial, "BACKENDS", {"eager": eager, "counting": Counting(0)})
    monkeypatch.setattr(apply, "BACKENDS", trial.BACKENDS)
    served = loaded(saved(tmp_path), backend="counting", max_batch=8)
    ran.clear()
    with torch.inference_mode():
        for rows in (torch.rand(4, 12), torch.rand(9, 12), torch.rand(4, 12).double()):
            if rows.dtype == torch.float32:
                torch.testing.assert_close(served.module(rows), network()(rows))
        with pytest.raises(RuntimeError):  # as the module itself says
            served.module(torch.rand(4, 12).double())
    assert ran == [4]
    assert served.batcher.most_rows == 8


def test_the_structure_of_an_answer_is_kept() -> None:
    value = {"logits": torch.ones(1), "state": (torch.zeros(2), None), "kind": "text"}
    found = answer_of(value)
    assert found is not None
    again = found.of([torch.tensor([3.0]), torch.tensor([1.0, 2.0])])
    assert again["logits"].tolist() == [3.0] and again["state"][1] is None and again["kind"] == "text"
    assert answer_of({"odd": object(), "x": torch.ones(1)}) is None
    assert answer_of("no tensor") is None


@pytest.mark.parametrize(
    "task",
    [
        "text-classification",
        pytest.param("feature-extraction", marks=pytest.mark.slow),
        pytest.param("image-classification", marks=pytest.mark.slow),
    ],
)
def test_a_task_answers_the_same(tmp_path: Path, task: str) -> None:
    pytest.importorskip("openvino")
    folder = tiny.made(task, tmp_path / "model")
    plain = pipeline.load_model(Settings.load(folder))
    quick = pipeline.load_model(Settings.load(folder, backend="openvino", max_batch=8))
    assert quick.running.backend == "openvino"
    assert plain.runner is not None and quick.runner is not None
    for items in samples._items(plain, samples.FEW):
        one, other = (np.asarray(_numbers(each.runner(items, {})[0])) for each in (plain, quick))  # type: ignore[union-attr]
        np.testing.assert_allclose(one, other, atol=1e-4)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in _numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in _numbers(each)]
    return [value] if isinstance(value, float) else []


# tuned.json


def test_what_was_found_is_used_at_the_next_start(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = saved(tmp_path)
    written = kept(path, ["openvino"])
    assert written == tmp_path / "model.pt.tuned" / "tuned.json"
    said = json.loads(written.read_text())
    assert said["backend"] in ("openvino", "eager")
    for source in (path, tmp_path):  # beside the checkpoint, whatever is named; and no rival to it
        served = loaded(source)
        assert served.running.source == "tuned.json" and served.running.backend == said["backend"]
        with torch.inference_mode():
            torch.testing.assert_close(answers(served), network()(ROWS), rtol=1e-4, atol=1e-5)
    assert loaded(path, backend="eager").running.source == "torch as it is"


def force(written: Path, **values: Any) -> dict[str, Any]:
    said = json.loads(written.read_text())
    said |= values
    written.write_text(json.dumps(said))
    return dict(said)


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tuned file that says bf16-autocast, whatever is quickest here."""
    written = kept(saved(tmp_path, classes=1), ["bf16-autocast"], tolerance=0.05)
    force(written, backend="bf16-autocast")
    monkeypatch.setenv("SCORE_TOLERANCE", "0.05")
    return written


def test_it_holds_as_long_as_all_is_the_same(found: Path) -> None:
    assert loaded(found.parents[1] / "model.pt").running.backend == "bf16-autocast"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("checkpoint", "checkpoint is"),
        ("processor", "processor is"),
        ("torch", "torch is"),
        ("backend", "no backend"),
        ("fits", "sizes"),
        ("file", "is not what it was"),
        ("version", "another version"),
    ],
)
def test_where_something_differs_torch_runs_it_and_the_log_says_so(
    found: Path, change: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, said = found.parents[1] / "model.pt", json.loads(found.read_text())
    if change == "checkpoint":
        net = network()
        net[0].weight.data += 1  # type: ignore[index,union-attr]
        path.unlink()
        torch.save(net, path)
    elif change in ("processor", "torch"):
        force(found, bound_to={**said["bound_to"], change: "another"})
    elif change == "file":
        force(found, files={"graph.bin": "0" * 64})
    else:
        force(found, **{"backend": {"backend": "x"}, "fits": {"fits": {"input": 3}}, "version": {"version": 9}}[change])
    with caplog.at_level(logging.WARNING):
        assert loaded(path).running.backend == "eager"
    assert says in caplog.text


def test_a_file_that_would_lead_out_is_refused(found: Path, caplog: pytest.LogCaptureFixture) -> None:
    force(found, files={"../../model.pt": "0" * 64})
    with caplog.at_level(logging.WARNING):
        assert loaded(found.parents[1] / "model.pt").running.backend == "eager"
    assert "not in the folder" in caplog.text


def test_native_code_is_loaded_only_where_it_is_trusted(found: Path, caplog: pytest.LogCaptureFixture) -> None:
    package = found.with_name("graph.pt2")
    package.write_bytes(b"whatever was compiled")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    force(found, backend="inductor", files={"graph.pt2": digest})
    path = found.parents[1] / "model.pt"
    with caplog.at_level(logging.WARNING):
        assert loaded(path).running.backend == "eager"
    assert f"SCORE_TRUST_SHA256={digest}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # trusted, it is loaded, and is none
        assert loaded(path, trust_sha256=digest).running.backend == "eager"
    assert "not trusted" not in caplog.text and "not used" in caplog.text


def written(found: Path, name: str, file: str) -> tuple[Path, str]:
    """Have a backend write what a later start loads; the checkpoint, and the file's digest."""
    if (why := BACKENDS[name].missing(torch.device("cpu"))) is not None:
        pytest.skip(why)
    path = found.parents[1] / "model.pt"
    predictor = loaded(path, backend="eager")
    given = samples.of(predictor)
    assert given is not None
    BACKENDS[name].build(Subject(predictor.module, given, torch.device("cpu"), 1)).keep(found.parent)
    digest = hashlib.sha256(found.with_name(file).read_bytes()).hexdigest()
    force(found, backend=name, files={file: digest})
    return path, digest


@pytest.mark.slow
def test_what_inductor_compiled_is_served_without_a_compiler(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = written(found, "inductor", "graph.pt2")
    monkeypatch.setenv("PATH", str(path.parent))
    assert BACKENDS["inductor"].missing(torch.device("cpu")) == "there is no C++ compiler"
    served = loaded(path, trust_sha256=digest)
    assert served.running.backend == "inductor"
    with torch.inference_mode():
        torch.testing.assert_close(answers(served), network(classes=1)(ROWS), rtol=1e-4, atol=1e-5)


def test_what_wrote_a_graph_is_not_needed_to_run_it(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = written(found, "onnxruntime", "graph.onnx")
    find = importlib.util.find_spec
    absent = ("onnx", "onnxscript", "openvino")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else find(name, *more))
    assert BACKENDS["onnxruntime"].missing(torch.device("cpu")) == "onnx, onnxscript not installed"
    said = json.loads(found.read_text())["bound_to"]
    force(found, bound_to={**said, "openvino": "another", "torchao": "another"})  # which compute nothing of it
    served = loaded(path)
    assert served.running.backend == "onnxruntime"
    with torch.inference_mode():
        torch.testing.assert_close(answers(served), network(classes=1)(ROWS), rtol=1e-4, atol=1e-5)
    force(found, bound_to={**said, "onnxruntime": "another"})
    assert loaded(path).running.backend == "eager"


def test_answers_are_compared_again_at_the_start(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_TOLERANCE", "1e-9")
    assert loaded(found.parents[1] / "model.pt").running.backend == "eager"


def test_of_a_folder_it_is_inside_and_no_part_of_what_it_is_bound_to(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = tuned_file.bound_to(folder, torch.device("cpu"))
    tuned_file.write(tuned_file.folder_of(folder), folder, torch.device("cpu"), {"backend": "eager"})
    assert tuned_file.folder_of(folder) == folder / "tuned"
    assert tuned_file.bound_to(folder, torch.device("cpu")) == before


def test_sizes_of_inputs_are_kept(tmp_path: Path) -> None:
    given = samples.of(loaded(saved(tmp_path), backend="eager", max_batch=8))
    assert given is not None
    fits = Fits.of(given)
    assert Fits.from_dict(json.loads(json.dumps(fits.as_dict()))) == fits
    assert {"input": torch.rand(8, 12)} in fits
    for other in ({"input": torch.rand(9, 12)}, {"input": torch.rand(2, 13)}, {"other": torch.rand(2, 12)}, {}):
        assert other not in fits


def test_a_backend_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="openvino-bf16"):
        loaded(saved(tmp_path), backend="quick")


def test_a_checkpoint_may_not_set_how_far_answers_may_be_apart(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "score.toml").write_text("tolerance = 1.0\n")
    with pytest.raises(InvalidSetting, match="tolerance"):
        Settings.load(tmp_path)


@pytest.mark.parametrize(("times", "wanted"), [(1.05, "onnxruntime"), (1.3, "inductor")])
def test_what_needs_trust_has_to_be_worth_it(times: float, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(name: str, *_given: Any) -> tuple[trial.Tried, Built]:
        pace = {"eager": 1.0, "onnxruntime": 2.0, "inductor": 2.0 * times}[name]
        same = agreement.Agreement(0.0, 1, 1)
        return trial.Tried(name, {1: pace}, same, further=trial.ROWS), Built(lambda inputs: inputs)

    monkeypatch.setattr(trial, "_try", tried)
    given = samples.Samples(("input",), ({"input": ROWS},))
    found = trial.run(network(), given, torch.device("cpu"), 1, 1e-3, 60.0, ["onnxruntime", "inductor"])
    assert found is not None
    assert found.best.name == wanted


def test_what_is_much_slower_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    class Slow(Wrong):
        def build(self, subject: Subject) -> Built:
            def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
                ran.append(len(inputs[0]))
                time.sleep(0.06)  # of a test
                return subject.flat(*inputs)  # type: ignore[no-any-return]

            return Built(run)

    monkeypatch.setattr(trial, "BACKENDS", {"eager": eager, "slow": Slow(0)})
    monkeypatch.setattr(trial, "START", 0.1)
    given = samples.Samples(("input",), ({"input": ROWS},) * 50)
    found = trial.run(network(), given, torch.device("cpu"), 1, 1e-3, 60.0)
    assert found is not None and found.best.name == "eager"
    assert "much slower than torch" in (found.tried[1].refused or "")
    assert 1 < len(ran) < 50
