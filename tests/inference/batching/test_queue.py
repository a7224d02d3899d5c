"""The batcher: whoever asks gets the answer to what was asked, in time or not at all."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from score.errors import DeadlinePassed, ModelRejected, OutOfMemory, QueueFull
from score.inference.batching.cost_model import CostModel
from score.inference.batching.queue import Batcher, Limits
from score.inference.batching.ticket import Ticket

PATIENT = Limits(rows=64, requests=256, seconds=60)


class Recorder:
    """A forward function that notes the rows it was called with, and waits while `gate` is shut."""

    def __init__(self, forward: Callable[[dict[str, Any]], Any]) -> None:
        self.calls: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self._forward = forward

    def __call__(self, inputs: dict[str, Any]) -> Any:
        self.gate.wait()
        self.calls.append(len(next(iter(inputs.values()))))
        return self._forward(inputs)


def doubled(inputs: dict[str, Any]) -> np.ndarray:
    values: np.ndarray = (inputs["x"] * 2).numpy()
    return values


def together(batcher: Batcher, recorder: Recorder, requests: list[dict[str, Any]]) -> list[Any]:
    """Submit all so that they wait at the same time, behind one that the model is busy with."""
    recorder.gate.clear()
    first = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in requests[0].items()}
    with ThreadPoolExecutor(len(requests) + 1) as pool:
        busy = pool.submit(batcher.submit, first)
        until(lambda: batcher.running > 0)
        futures = []
        for at, request in enumerate(requests):
            futures.append(pool.submit(batcher.submit, request))
            until(lambda waiting=at + 1: batcher.waiting == waiting)
        recorder.gate.set()
        busy.exception()
        return [future.exception() or future.result() for future in futures]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def rows(*values: float) -> dict[str, Any]:
    return {"x": torch.tensor([[value] for value in values])}


def test_a_lone_request_runs_at_once_and_alone() -> None:
    recorder = Recorder(doubled)
    outputs, took = Batcher(recorder, PATIENT, True).submit(rows(1.0, 2.0))
    np.testing.assert_array_equal(outputs, [[2.0], [4.0]])
    assert (took.rows, took.batch_rows, recorder.calls) == (2, 2, [2])


@pytest.mark.parametrize(
    ("seconds", "expected", "tried"),
    [({2: 0.004, 1: 0.001}, 1, {1, 2}), ({2: 0.001, 1: 0.004}, 2, {1, 2}), ({2: 0.015, 1: 0.001}, 2, {2})],
)
def test_a_small_request_is_computed_with_the_cores_that_are_quickest(
    seconds: dict[int, float], expected: int, tried: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cores, used = [2], list[tuple[int, int]]()
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores[-1])
    monkeypatch.setattr(torch, "set_num_threads", cores.append)

    def forward(inputs: dict[str, Any]) -> np.ndarray:
        used.append((len(inputs["x"]), cores[-1]))
        time.sleep(seconds[cores[-1]])
        return np.asarray(inputs["x"])

    batcher = Batcher(forward, Limits(64, 64, 10), True)
    batcher.choose_cores({"x": torch.zeros(1, 2)})
    assert {count for _, count in used} == tried
    used.clear()
    for rows, length in ((1, 2), (1, 200), (8, 2)):  # a long row is not small
        batcher.submit({"x": torch.zeros(rows, length)})
    batcher.close()
    assert used == [(1, expected), (1, 2), (8, 2)]


def test_requests_that_wait_together_run_together_by_rows() -> None:
    recorder = Recorder(doubled)
    batcher = Batcher(recorder, Limits(8, 256, 60), True)
    answers = together(batcher, recorder, [rows(*range(start, start + 3)) for start in range(0, 18, 3)])
    for start, (outputs, took) in zip(range(0, 18, 3), answers, strict=True):
        np.testing.assert_array_equal(outputs, [[2.0 * value] for value in range(start, start + 3)])
        assert (took.rows, took.batch_rows) == (3, 6)
    assert recorder.calls == [1, 6, 6, 6]  # eight rows are allowed, and three requests are nine


def test_a_request_larger_than_a_batch_runs_in_parts() -> None:
    recorder = Recorder(doubled)
    outputs, took = Batcher(recorder, Limits(4, 256, 60), True).submit(rows(*range(10)))
    np.testing.assert_array_equal(outputs, [[2.0 * value] for value in range(10)])
    assert recorder.calls == [4, 4, 2]
    assert took.rows == 10


def test_shapes_dtypes_and_scalars_that_differ_are_kept_apart() -> None:
    kinds = [
        {"x": torch.zeros(1, 2), "n": 1},
        {"x": torch.zeros(1, 3), "n": 1},
        {"x": torch.zeros(1, 2), "n": 2},
        {"x": torch.zeros(1, 2, dtype=torch.int64), "n": 1},
        {"x": torch.ones(1, 2), "n": 1},
    ]
    recorder = Recorder(lambda inputs: (inputs["x"] + inputs["n"]).numpy())
    answers = together(Batcher(recorder, PATIENT, True), recorder, kinds)
    for request, (outputs, _) in zip(kinds, answers, strict=True):
        np.testing.assert_array_equal(outputs, (request["x"] + request["n"]).numpy())
    assert sorted(recorder.calls[1:]) == [1, 1, 1, 2]


def test_costs_are_averages_with_lines_between() -> None:
    costs = CostModel()
    assert costs.of(5) == 0.0
    for rows, seconds in ((1, 1.0), (4, 2.0), (4, 2.0), (16, 2.0)):
        costs.learn(rows, seconds)
    assert [costs.of(rows) for rows in (1, 2, 4, 10, 16, 32)] == [1.0, pytest.approx(4 / 3), 2.0, 2.0, 2.0, 4.0]
    costs.learn(4, 3.0)
    assert costs.of(4) == pytest.approx(2.1)
    assert costs.gain(4, 16) == pytest.approx(2.1 + costs.of(12) - 2.0)


def test_a_lone_client_never_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = Batcher(doubled, PATIENT, True)
    for _ in range(20):
        batcher.submit(rows(1.0))
    waits: list[float | None] = []
    monkeypatch.setattr(batcher._changed, "wait", lambda timeout=None: waits.append(timeout) or True)
    with batcher._changed:
        batcher._queue.append(Ticket(rows(1.0), 1, None, 0.0, print, bool))
        batcher._gather()
        batcher._queue.clear()
    assert not [timeout for timeout in waits if timeout is not None]


def test_more_rows_are_waited_for_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight ran before; a pass takes as long whatever its rows; requests come every hundredth of a second."""
    batcher = Batcher(doubled, PATIENT, True)
    for size in (1, 2, 4, 8):
        batcher.costs.learn(size, 0.1)
    batcher._expected, batcher._pace, batcher._cores = 8, 0.01, 2

    def arrive(timeout: float | None = None) -> bool:
        batcher._queue.append(Ticket(rows(1.0), 1, None, 0.0, print, bool))
        return True

    monkeypatch.setattr(batcher._changed, "wait", arrive)
    with batcher._changed:
        arrive()
        batcher._gather()
    assert len(batcher._queue) == 8
    batcher._queue.clear()
    batcher._pace = 1.0  # now they come too slowly to wait for
    with batcher._changed:
        arrive()
        batcher._gather()
    assert len(batcher._queue) == 1


def test_one_bad_row_never_fails_its_neighbours() -> None:
    def picky(inputs: dict[str, Any]) -> np.ndarray:
        if (inputs["x"] < 0).any():
            raise ModelRejected("a negative number")
        return doubled(inputs)

    recorder = Recorder(picky)
    answers = together(Batcher(recorder, PATIENT, True), recorder, [rows(1.0), rows(-1.0), rows(3.0)])
    np.testing.assert_array_equal(answers[0][0], [[2.0]])
    assert isinstance(answers[1], ModelRejected)
    np.testing.assert_array_equal(answers[2][0], [[6.0]])


@given(st.sets(st.integers(0, 31), max_size=4))
def test_culprits_are_found_by_halves(bad: set[int]) -> None:
    def picky(inputs: dict[str, Any]) -> np.ndarray:
        if (inputs["x"] < 0).any():
            raise ModelRejected("a negative number")
        return doubled(inputs)

    recorder = Recorder(picky)
    requests = [rows(-1.0 if at in bad else float(at)) for at in range(32)]
    answers = together(Batcher(recorder, PATIENT, True), recorder, requests)
    for at, answer in enumerate(answers):
        if at in bad:
            assert isinstance(answer, ModelRejected)
        else:
            np.testing.assert_array_equal(answer[0], [[2.0 * at]])
    assert len(recorder.calls) <= 2 + 10 * len(bad)


def test_what_is_not_separable_runs_one_by_one() -> None:
    recorder = Recorder(lambda inputs: (inputs["x"] - inputs["x"].mean()).numpy())
    answers = together(Batcher(recorder, PATIENT, False), recorder, [rows(1.0, 3.0), rows(5.0, 9.0)])
    np.testing.assert_array_equal(answers[0][0], [[-1.0], [1.0]])
    np.testing.assert_array_equal(answers[1][0], [[-2.0], [2.0]])
    assert recorder.calls == [1, 2, 2]


@pytest.mark.parametrize(
    ("forward", "separable"),
    [
        (doubled, True),
        (lambda inputs: (inputs["x"] - inputs["x"].mean()).numpy(), False),  # rows depend on each other
        (lambda inputs: inputs["x"].sum(0, keepdim=True).numpy(), False),  # one row out, whatever goes in
        (lambda inputs: {"a": doubled(inputs), "b": np.zeros(1)}, False),  # one output is not by rows
    ],
)
def test_whether_rows_are_separable_is_found_out_from_the_first_requests(forward: Any, separable: bool) -> None:
    recorder = Recorder(forward)
    batcher = Batcher(recorder, PATIENT, None)
    requests = [rows(1.0, 2.0), rows(5.0, 7.0)]
    answers = together(batcher, recorder, requests)
    for request, (outputs, _) in zip(requests, answers, strict=True):
        np.testing.assert_equal(outputs, forward(request))
    assert batcher.separable is separable


def test_equal_requests_tell_nothing_about_separability() -> None:
    recorder = Recorder(lambda inputs: inputs["x"].mean(0, keepdim=True).expand(len(inputs["x"]), 1).numpy())
    batcher = Batcher(recorder, PATIENT, None)
    together(batcher, recorder, [rows(1.0), rows(1.0)])
    assert batcher.separable is None


def test_a_model_that_turns_out_not_to_answer_by_rows_is_run_one_by_one() -> None:
    recorder = Recorder(lambda inputs: inputs["x"][:1].numpy())
    batcher = Batcher(recorder, PATIENT, True)
    answers = together(batcher, recorder, [rows(1.0), rows(2.0)])
    assert [outputs.tolist() for outputs, _ in answers] == [[[1.0]], [[2.0]]]
    assert batcher.separable is False
    outputs, _ = Batcher(recorder, Limits(2, 8, 60), True).submit(rows(1.0, 2.0, 3.0))
    assert outputs.tolist() == [[1.0]]


def test_a_bug_in_the_batcher_is_an_error_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = Batcher(doubled, PATIENT, True)
    with monkeypatch.context() as patched:
        patched.setattr(batcher._passes, "answer", lambda _batch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            batcher.submit(rows(1.0))
    assert batcher.submit(rows(1.0))[0].tolist() == [[2.0]]


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    def small(inputs: dict[str, Any]) -> np.ndarray:
        if len(inputs["x"]) > 3:
            raise OutOfMemory("more than three")
        return doubled(inputs)

    recorder = Recorder(small)
    batcher = Batcher(recorder, PATIENT, True)
    answers = together(batcher, recorder, [rows(float(value)) for value in range(16)])
    assert [outputs.tolist() for outputs, _ in answers] == [[[2.0 * value]] for value in range(16)]
    assert batcher.most_rows == 2
    outputs, _ = batcher.submit(rows(1.0, 2.0, 3.0, 4.0))  # the same holds for the rows of one request
    assert outputs.tolist() == [[2.0], [4.0], [6.0], [8.0]]


def test_a_row_that_does_not_fit_at_all_is_refused() -> None:
    def never(inputs: dict[str, Any]) -> np.ndarray:
        raise OutOfMemory("nothing fits")

    batcher = Batcher(never, PATIENT, True)
    with pytest.raises(OutOfMemory):
        batcher.submit(rows(1.0, 2.0))
    recorder = Recorder(never)
    assert all(
        isinstance(found, OutOfMemory)
        for found in together(Batcher(recorder, PATIENT, True), recorder, [rows(1.0)] * 2)
    )


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    recorder = Recorder(doubled)
    batcher = Batcher(recorder, Limits(1, 2, 60), True)
    recorder.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(batcher.submit, rows(1.0))]
        until(lambda: batcher.running > 0)
        futures += [pool.submit(batcher.submit, rows(1.0)) for _ in range(2)]
        until(lambda: batcher.waiting == 2)
        with pytest.raises(QueueFull) as caught:
            batcher.submit(rows(1.0))
        assert caught.value.status == 429
        assert caught.value.retry_after is not None
        recorder.gate.set()
        for future in futures:
            assert future.result()[0].tolist() == [[2.0]]


def test_what_waited_too_long_is_answered_in_time_and_never_run() -> None:
    recorder = Recorder(doubled)
    batcher = Batcher(recorder, Limits(1, 8, 0.2), True)
    recorder.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(batcher.submit, rows(1.0))
        until(lambda: batcher.running > 0)
        late = pool.submit(batcher.submit, rows(2.0))
        assert isinstance(late.exception(30), DeadlinePassed)  # while the model is still busy
        recorder.gate.set()
        assert busy.result()[0].tolist() == [[2.0]]  # what has begun is finished
    assert len(recorder.calls) == 1


def test_sixty_four_threads_each_get_their_own_answer() -> None:
    """Inputs are tagged: the answer to a row says whose it is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)).eval()

    def forward(inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {"tag": inputs["x"][:, :1].numpy(), "y": model(inputs["x"]).numpy()}

    recorder = Recorder(forward)
    batcher = Batcher(recorder, Limits(16, 256, 60), True)
    wrong: list[Any] = []

    def ask(thread: int) -> None:
        generator = torch.Generator().manual_seed(thread)
        for turn in range(20):
            values = torch.rand(1 + (thread + turn) % 3, 4, generator=generator)
            values[:, 0] = thread * 1000 + turn
            outputs, _ = batcher.submit({"x": values})
            assert isinstance(outputs, dict)
            with torch.inference_mode():
                alone = model(values).numpy()
            if not (outputs["tag"] == thread * 1000 + turn).all() or not np.allclose(outputs["y"], alone, atol=1e-5):
                wrong.append((thread, turn))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert max(recorder.calls) > 3, "nothing was batched"
    assert max(recorder.calls) <= 16


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 8))
def test_any_requests_and_any_limit_give_each_its_own_rows(sizes: list[int], limit: int) -> None:
    recorder = Recorder(doubled)
    batcher = Batcher(recorder, Limits(limit, 256, 60), True)
    requests = [{"x": torch.full((size, 1), float(tag))} for tag, size in enumerate(sizes)]
    for tag, (size, (outputs, _)) in enumerate(zip(sizes, together(batcher, recorder, requests), strict=True)):
        assert outputs.tolist() == [[2.0 * tag]] * size
    assert max(recorder.calls) <= limit


def test_the_parts_of_a_large_request_take_turns_with_small_ones() -> None:
    order: list[int] = []

    def forward(inputs: Any) -> np.ndarray:
        rows = inputs["x"]
        order.append(int(rows[0, 0]))
        time.sleep(0.05)
        return np.asarray(rows) * 2

    batcher = Batcher(forward, Limits(4, 100, 60), True)
    large = torch.arange(40.0).reshape(40, 1)
    answers: dict[str, Any] = {}

    def ask(name: str, rows: torch.Tensor) -> None:
        answers[name] = (batcher.submit({"x": rows}), time.monotonic())

    first = threading.Thread(target=ask, args=("large", large))
    first.start()
    time.sleep(0.08)  # the second of its ten parts runs
    small = threading.Thread(target=ask, args=("small", torch.full((1, 1), 1000.0)))
    small.start()
    small.join()
    first.join()
    np.testing.assert_array_equal(answers["large"][0][0], large.numpy() * 2)
    np.testing.assert_array_equal(answers["small"][0][0], [[2000.0]])
    assert order.index(1000) <= 4  # not behind the other eight parts
    assert answers["small"][1] < answers["large"][1]


def test_a_large_request_that_fails_in_a_part_fails_as_one() -> None:
    def forward(inputs: Any) -> np.ndarray:
        if float(inputs["x"].max()) > 30:
            raise ModelRejected("no")
        return np.asarray(inputs["x"])

    batcher = Batcher(forward, Limits(4, 100, 60), True)
    with pytest.raises(ModelRejected):
        batcher.submit({"x": torch.arange(40.0).reshape(40, 1)})
    found, took = batcher.submit({"x": torch.arange(9.0).reshape(9, 1)})
    assert took.rows == 9
    np.testing.assert_array_equal(found, np.arange(9.0).reshape(9, 1))


def test_several_requests_of_one_caller_run_in_as_few_passes_as_may_be() -> None:
    recorder = Recorder(doubled)
    batcher = Batcher(recorder, Limits(8, 256, 60), True)
    recorder.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(batcher.submit, rows(0.0))
        until(lambda: batcher.running > 0)
        asked = pool.submit(batcher.submit_all, [rows(float(at)) for at in range(16)])
        until(lambda: batcher.waiting == 16)
        recorder.gate.set()
        answers = asked.result()
    assert [outputs.tolist() for outputs, _ in answers] == [doubled(rows(float(at))).tolist() for at in range(16)]
    assert recorder.calls == [1, 8, 8]


def test_several_requests_are_refused_together() -> None:
    batcher = Batcher(doubled, Limits(8, 4, 60), True)
    with pytest.raises(QueueFull):
        for _ in range(20):  # the model's thread may be quicker than the queue fills
            batcher.submit_all([rows(float(at)) for at in range(64)])
    until(lambda: batcher.waiting == 0)
    outputs, _ = batcher.submit(rows(3.0))
    assert outputs.tolist() == doubled(rows(3.0)).tolist()
