"""With how many threads and rows a pass the best way runs, and that it is compared on more rows than the others."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from score.inference import pipeline
from score.inference.tuning import placement, samples, timing, trial
from score.inference.tuning.backends import eager
from score.inference.tuning.backends.base import Built, NotPossible, Subject
from score.inference.tuning.samples import Samples
from score.inference.tuning.swap import Run
from score.settings import Settings
from score.weights.hashing import file_sha256
from tests.inference.tuning.test_tuning import INPUTS, force, kept, loaded, network, saved

CPU = torch.device("cpu")


def of_rows(*sizes: int) -> Samples:
    return Samples(("input",), tuple({"input": torch.rand(rows, 12)} for rows in sizes))


# Rows and their lengths


def test_the_rows_of_a_pass_are_those_of_the_middle_length_again_and_again() -> None:
    texts = [
        {"ids": torch.arange(rows * length).view(rows, length)} for rows, length in ((1, 2), (3, 5), (1, 5), (1, 9))
    ]
    given = Samples(("ids",), tuple(texts))
    assert samples.typical(given) is texts[1]
    more = samples.with_rows(given, 7)
    assert more is not None and torch.equal(more["ids"], texts[1]["ids"][[0, 1, 2, 0, 1, 2, 0]])
    assert timing.few_and_many(given) == [1, 3]
    assert timing.few_and_many(of_rows(1, 64)) == [1, 16]


def test_a_number_of_rows_that_is_not_free_stays() -> None:
    given = of_rows(3, 3)
    assert samples.with_rows(given, 2) is None and timing.few_and_many(given) == [3]


def test_a_task_is_tried_with_as_many_rows_as_there_may_be(tmp_path: Path) -> None:
    from tests.inference.tasks import tiny

    served = pipeline.load_model(Settings.load(tiny.made("text-classification", tmp_path / "model"), max_batch=40))
    found = samples.of(served)
    assert found is not None and samples.most_rows(found) == 40


@pytest.mark.parametrize(
    ("speeds", "rows"),
    [
        ({1: 10.0, 2: 10.1, 4: 10.3, 8: 10.4}, 1),  # each row costs as much alone
        ({1: 100.0, 2: 180.0, 4: 300.0, 8: 310.0}, 4),
        ({1: 10_000.0, 2: 10_000.0, 4: 10_000.0, 64: 10_000.0}, 64),  # what is around a pass costs more than it
        ({1: 100.0, 2: 200.0, 4: 120.0}, 2),
    ],
)
def test_as_few_rows_as_answer_nearly_as_many(speeds: dict[int, float], rows: int) -> None:
    assert timing.worth(speeds) == rows


# Threads


def measured(monkeypatch: pytest.MonkeyPatch, speed: Callable[[int, int], float]) -> list[int]:
    """Have passes take what is said, by threads and rows; torch's threads are those of the backend here."""
    asked: list[int] = []

    def speeds(_run: Run, _samples: Samples, sizes: Sequence[int]) -> dict[int, float]:
        asked.append(torch.get_num_threads())
        return {rows: speed(asked[-1], rows) for rows in sizes}

    monkeypatch.setattr(timing, "speeds", speeds)
    return asked


def tried(threads: int) -> placement.Placement:
    subject = Subject(network(), of_rows(1, 2, 16), CPU, threads)
    before = torch.get_num_threads()
    placed, _ = placement.tried(eager.build(subject), subject)
    assert torch.get_num_threads() == before
    return placed


@pytest.mark.parametrize(
    ("speed", "threads", "asked"),
    [
        (lambda threads, rows: 100.0 * threads, None, [8, 4]),
        (lambda threads, rows: 100.0 / threads, 1, [8, 4, 2, 1]),
        (lambda threads, rows: 100.0 + (threads < 8), None, [8, 4, 2, 1]),  # not clearly
        (lambda threads, rows: {8: 50.0, 4: 100.0, 2: 120.0, 1: 60.0}[threads], 2, [8, 4, 2, 1]),
    ],
)
def test_fewer_threads_where_they_are_clearly_quicker(
    monkeypatch: pytest.MonkeyPatch, speed: Callable[[int, int], float], threads: int | None, asked: list[int]
) -> None:
    seen = measured(monkeypatch, speed)
    assert tried(8).threads == threads
    assert seen[: len(asked)] == asked
    assert set(seen[len(asked) :]) == {threads or 8}  # the rows of a pass are measured with the best


def test_a_backend_with_threads_of_its_own_is_built_with_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def with_threads(count: int) -> Run:
        made.append(count)
        return lambda inputs: [inputs[0] + count]

    monkeypatch.setattr(timing, "speeds", lambda run, _samples, sizes: dict.fromkeys(sizes, float(9 - run([0])[0])))
    subject = Subject(network(), of_rows(1, 16), CPU, 8)
    placed, run = placement.tried(Built(with_threads(8), with_threads=with_threads), subject)
    assert made == [8, 4, 2, 1] and placed.threads == 1
    assert run([torch.tensor(0)])[0] == 1
    assert placed.as_dict()["by_threads"]["4"] == {"1": 5.0, "16": 5.0}


def test_larger_passes_than_a_long_one_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        ran.append(len(inputs[0]))
        return inputs

    monkeypatch.setattr(timing, "_taken", lambda run, given: (run(given), len(given[0]) * timing.LONG / 3)[1])
    monkeypatch.setattr(timing, "MEASURED", 0.0)
    assert set(timing.by_rows(run, of_rows(1, 2, 64))) == {1, 2, 4}
    assert ran.count(1) == 1 + timing.LEAST_RUNS and ran.count(4) == 1  # a long pass is measured once


# What is kept, and served


def test_what_was_placed_is_served_so(tmp_path: Path) -> None:
    path = saved(tmp_path)
    written = kept(path, ["bf16"])
    assert set(json.loads(written.read_text())["placement"]) == {"threads", "rows"}
    force(written, placement={"threads": 1, "rows": 4})
    served = loaded(path)
    assert served.running.threads == 1 and "1 of its threads" in str(served.running)
    assert served.batcher.most_rows == 4
    assert served.batcher._cores == 1
    assert loaded(path, max_batch=2).batcher.most_rows == 2
    card = served.card()["backend"]
    assert (card["threads"], card["most_rows"]) == (1, 4)
    force(written, placement={"threads": "all", "rows": -1})
    assert loaded(path).running.threads is None and loaded(path).batcher.most_rows == 64


@pytest.mark.parametrize("name", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_a_backend_of_its_own_threads_is_loaded_with_as_many(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = trial.BACKENDS[name]
    if (why := backend.missing(CPU)) is not None:
        pytest.skip(why)
    path = saved(tmp_path)
    predictor = pipeline.load_model(Settings.load(path, inputs=INPUTS, backend="eager"))
    given = samples.of(predictor)
    assert given is not None
    subject = Subject(predictor.module, given, CPU, 2)
    built = backend.build(subject)
    assert built.with_threads is not None
    rows = [torch.rand(3, 12)]
    with torch.inference_mode():
        for run in (built.run, built.with_threads(1)):
            torch.testing.assert_close(run(rows)[0], subject.flat(*rows)[0])
    written = kept(path, ["bf16"])
    built.keep(written.parent)  # type: ignore[misc]
    files = {each.name: file_sha256(each) for each in written.parent.iterdir() if each != written}
    force(written, backend=name, files=files, placement={"threads": 1, "rows": 8})
    loads: list[int] = []
    load = backend.load
    monkeypatch.setattr(backend, "load", lambda folder, threads: (loads.append(threads), load(folder, threads))[1])
    assert loaded(path).running.backend == name
    assert loads == [1]


# Rows beyond the samples


class Rarely:
    """A backend that is quick, and wrong where a row has a number above 3, or refuses it: seldom, of those made up."""

    CODE: tuple[str, ...] = ()

    def __init__(self, name: str, fault: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.NAME, self.fault, self.built = name, fault, 0

    def missing(self, _device: torch.device) -> None:
        return None

    def build(self, subject: Subject) -> Built:
        self.built += 1

        def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            found = subject.flat(*inputs)
            return [self.fault(found[0]), *found[1:]] if bool((inputs[0] > 3).any()) else found

        return Built(run)


def refusing(_found: torch.Tensor) -> torch.Tensor:
    raise NotPossible("a number above 3")


@pytest.mark.parametrize("fault", [lambda found: found + 1, refusing])
def test_the_best_is_compared_on_a_thousand_rows_and_the_next_one_is_taken_if_it_fails(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    right, wrong = Rarely("right", lambda found: found), Rarely("wrong", fault)
    monkeypatch.setattr(trial, "BACKENDS", {"eager": eager, "wrong": wrong, "right": right})
    monkeypatch.setattr(trial, "COMPARED", 0.0)  # one pass each, of one row
    paces = iter((1.0, 3.0, 2.0))
    monkeypatch.setattr(timing, "speeds", lambda _run, _samples, sizes: dict.fromkeys(sizes, next(paces, 1.0)))
    given = Samples(("input",), ({"input": torch.zeros(1, 12)}, {"input": torch.zeros(1, 12)}))
    found = trial.run(network(), given, CPU, 1, 1e-3, 60.0)
    assert found is not None and found.best.name == "right"
    assert found.best.agreement is not None and found.best.agreement.rows > trial.ROWS
    wronged = next(each for each in found.tried if each.name == "wrong")
    assert (not wronged.counts(1e-3) and wronged.further > 1) or "above 3" in wronged.refused
    assert (wrong.built, right.built) == (1, 2)  # it had been given up for the quicker one


def test_answers_that_are_large_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from score.inference.tuning import further

    monkeypatch.setattr(further, "MOST_HELD", 50)
    ran: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ran.append(len(x))
            return x + 1

    subject = Subject(Counting(), Samples(("x",), ({"x": torch.rand(2, 3)},)), CPU, 1)
    compare = further.Further(subject, ())
    for start, wanted in ((0, 8), (0, 8), (8, 0)):
        found, rows = compare.compared(lambda inputs: [inputs[0] + 1], 8, 9.0, start)
        assert rows == wanted and found.error == 0
    assert ran == [2] * (4 + 2)  # two of four draws of 24 bytes are held


def test_no_time_left_leaves_the_best_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    found = trial.run(network(), of_rows(1, 4), CPU, 2, 1e-3, 1e-9)
    assert found is not None and found.best.name == "eager"
    assert found.placement.as_dict() == {"threads": None, "rows": 4, "by_threads": {}, "by_rows": {}}
    assert any(each.refused == "the time was over" for each in found.tried)


def test_a_tasks_short_texts_are_tried_with_fewer_cores_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from score.inference.batching.queue import Batcher
    from tests.inference.tasks import tiny

    asked: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(Batcher, "choose_cores", lambda _self, inputs: asked.append(inputs))
    served = pipeline.load_model(Settings.load(tiny.made("text-classification", tmp_path / "model")))
    served.warm_up()
    assert [each["input_ids"].shape[0] for each in asked] == [1]
