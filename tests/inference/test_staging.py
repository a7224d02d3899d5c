"""Requests that go to a device and back while it computes for others: a made-up one, and a GPU where there is one."""

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score.codecs.base import Records
from score.errors import ModelRejected, RequestError
from score.inference import model_errors, outputs, staging
from score.inference.batching.queue import Batcher, Limits
from score.inference.pipeline import load_model
from score.settings import Settings
from tests.inference.batching.test_queue import rows, until
from tests.inference.tasks import tiny


class Device:
    """Does what it is asked for in that order, some time later, in a thread of its own."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._asked.get()()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.log.append("empty")
        return torch.empty(shape, dtype=dtype)

    def up(self, value: torch.Tensor) -> torch.Tensor:
        self.log.append(f"up {len(value)}")
        return value.clone()

    def down(self, value: torch.Tensor) -> torch.Tensor:
        found = torch.full_like(value, -77)  # nobody may read it yet

        def arrive() -> None:
            assert self.gate.wait(30)
            time.sleep(random.random() * 0.001)
            with torch.inference_mode():
                found.copy_(value)

        self._asked.put(arrive)
        return found

    def mark(self) -> Callable[[], None]:
        reached = threading.Event()
        self._asked.put(reached.set)

        def wait() -> None:
            self.log.append("wait")
            assert reached.wait(30)
            self.log.append("reached")

        return wait


@pytest.fixture
def device() -> Device:
    return Device()


def batcher(device: Device, compute: Callable[[dict[str, Any]], Any], limits: Limits, separable: bool) -> Batcher:
    def at_once(inputs: dict[str, Any]) -> Any:
        device.log.append("at once")
        with model_errors.as_ours():
            return compute(inputs).numpy()

    def begin(inputs: dict[str, Any]) -> Any:
        return staging.begun(device, compute, model_errors.as_ours, inputs)

    return Batcher(at_once, limits, separable, begin=begin)


def doubled(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return inputs["x"] * 2


def answered(served: Batcher, requests: list[dict[str, Any]], device: Device) -> list[Any]:
    """All answers or errors, of requests that wait while the device is busy with the first."""
    device.gate.clear()
    with ThreadPoolExecutor(len(requests)) as pool:
        futures = [pool.submit(served.submit, requests[0])]
        until(lambda: "wait" in device.log)
        for at, request in enumerate(requests[1:], 1):
            futures.append(pool.submit(served.submit, request))
            until(partial(_waiting, served, at))
        device.gate.set()
        return [future.exception() or future.result()[0] for future in futures]


def _waiting(served: Batcher, wanted: int) -> bool:
    return served.waiting == wanted


def ask(served: Batcher, inputs: dict[str, Any]) -> Any:
    return np.asarray(served.submit(inputs)[0]).tolist()


def test_a_batch_is_sent_while_the_device_computes_the_one_before(device: Device) -> None:
    """The first is alone; behind it there are three times two, and of these the next is begun before one has ended."""
    served = batcher(device, doubled, Limits(2, 256, 60), True)
    found = answered(served, [rows(float(value)) for value in range(7)], device)
    assert [each.tolist() for each in found] == [[[2.0 * value]] for value in range(7)]
    assert device.log == [
        "up 1", "wait", "reached",
        "up 2", "up 2", "wait", "reached",
        "up 2", "wait", "reached",
        "wait", "reached",
    ]  # fmt: skip


def test_fewer_rows_wait_for_others(device: Device) -> None:
    """One row waits behind four on the device: it is not sent, since more may come."""
    served = batcher(device, doubled, Limits(8, 256, 60), True)
    with ThreadPoolExecutor(8) as pool:
        device.gate.clear()
        first = pool.submit(ask, served, rows(1.0, 2.0, 3.0, 4.0))
        until(lambda: "wait" in device.log)
        second = pool.submit(ask, served, rows(5.0))
        until(lambda: served.waiting == 1)
        device.gate.set()
        assert first.result() == [[2.0], [4.0], [6.0], [8.0]]
        assert second.result() == [[10.0]]
    assert device.log == ["up 4", "wait", "reached", "up 1", "wait", "reached"]


def test_what_fails_on_the_way_is_its_own_error_only(device: Device) -> None:
    """On the device it shows late: a batch with a bad row fails as a whole, and is then run in halves."""

    def late(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if (inputs["x"] < 0).any():
            raise ValueError("a negative number")
        return inputs["x"] * 2

    served = batcher(device, late, Limits(4, 256, 60), True)
    found = answered(served, [rows(float(value)) for value in (0, 1, -2, 3, 4, 5)], device)
    assert [each.tolist() for each in (*found[:2], *found[3:])] == [[[0.0]], [[2.0]], [[6.0]], [[8.0]], [[10.0]]]
    assert isinstance(found[2], ModelRejected) and "a negative number" in found[2].message


def test_an_error_that_only_the_end_shows(device: Device) -> None:
    failing = iter([True])

    def begin(inputs: dict[str, Any]) -> Any:
        def wait() -> Any:
            if next(failing, False):
                raise ModelRejected("lost on the way")
            return doubled(inputs).numpy()

        return wait

    served = Batcher(lambda inputs: doubled(inputs).numpy(), Limits(4, 8, 60), True, begin=begin)
    assert ask(served, rows(1.0, 2.0)) == [[2.0], [4.0]]
    assert ask(served, rows(3.0)) == [[6.0]]


def test_outputs_without_rows_are_found_out(device: Device) -> None:
    served = batcher(device, lambda inputs: inputs["x"].sum(), Limits(8, 256, 60), True)
    found = answered(served, [rows(float(value)) for value in range(4)], device)
    assert [each.tolist() for each in found] == [0.0, 1.0, 2.0, 3.0]
    assert served.separable is False


def test_a_request_larger_than_a_pass_and_one_that_fits_none(device: Device) -> None:
    served = batcher(device, doubled, Limits(3, 256, 60), True)
    assert ask(served, rows(*range(8))) == [[2.0 * value] for value in range(8)]
    assert ask(served, {"x": torch.tensor(5.0)}) == 10.0


def test_many_clients_get_their_own_answers(device: Device) -> None:
    served = batcher(device, doubled, Limits(8, 1000, 60), True)

    def ask(seed: int) -> None:
        drawn = random.Random(seed)
        for _ in range(30):
            values = [drawn.random() for _ in range(drawn.randint(1, 11))]
            found, took = served.submit(rows(*values))
            np.testing.assert_array_equal(found, [[np.float32(value) * 2] for value in values])
            assert took.computed >= 0 and took.queued >= 0

    with ThreadPoolExecutor(16) as pool:
        for each in [pool.submit(ask, seed) for seed in range(16)]:
            each.result()


@pytest.mark.parametrize(
    "made",
    [
        lambda x: {"a": x, "b": (x + 1, x.sum())},
        lambda x: [{"boxes": x[at : at + 1], "name": "dog"} for at in range(len(x))],
        lambda x: (x.bfloat16(), "text", 3),
        lambda x: x.to_sparse(),
        lambda x: [x],
    ],
)
def test_outputs_are_as_at_once(device: Device, made: Callable[[torch.Tensor], Any]) -> None:
    given = torch.arange(6.0).reshape(3, 2)
    found = staging.begun(device, lambda inputs: made(inputs["x"]), model_errors.as_ours, {"x": given, "n": 3})()
    wanted = outputs.arrays(made(given))
    if isinstance(wanted, Records):
        assert isinstance(found, Records)
        pairs = [(one[name], other[name]) for one, other in zip(found.rows, wanted.rows, strict=True) for name in other]
    elif isinstance(wanted, dict):
        assert isinstance(found, dict) and found.keys() == wanted.keys()
        pairs = [(found[name], wanted[name]) for name in wanted]
    else:
        pairs = [(np.asarray(found), np.asarray(wanted))]
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def through_it(device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """All models are on the made-up device."""
    monkeypatch.setattr(staging, "lane_to", lambda _device: device)
    yield device


def test_a_model_on_the_device(through_it: Device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    torch.save(module, tmp_path / "model.pt")
    predictor = load_model(Settings.load(tmp_path / "model.pt", max_batch=8))
    inputs = [torch.rand(1 + at % 3, 4) for at in range(60)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda each: predictor({"input": each}), inputs))
    for each, answer in zip(inputs, found, strict=True):
        np.testing.assert_allclose(answer, module(each).detach().numpy(), atol=1e-6)
    assert "empty" in through_it.log and "wait" in through_it.log
    with pytest.raises(RequestError, match="mat1 and mat2"):
        predictor({"input": torch.rand(1, 5)})


def test_texts_on_the_device(through_it: Device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny.FOLDERS["text-classification"](tmp_path)
    predictor = load_model(Settings.load(tmp_path))
    assert predictor.runner is not None
    predictor.warm_up()
    texts = ["fine day", "the weights are never unavailable", "paris"]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(predictor, [[texts[at % 3]] for at in range(24)]))
    for at, each in enumerate(found):
        alone = predictor([texts[at % 3]])
        assert [(one["label"], pytest.approx(one["score"], abs=1e-5)) for one in _list(alone)] == [
            (one["label"], one["score"]) for one in _list(each)
        ]
    assert "wait" in through_it.log


def _list(found: Any) -> list[dict[str, Any]]:
    return found if isinstance(found, list) else [found]


def test_no_lane_where_there_is_no_gpu() -> None:
    assert staging.lane_to(torch.device("cpu")) is None


@pytest.mark.gpu
def test_a_model_on_a_gpu(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 1000)).eval()
    torch.save(module, tmp_path / "model.pt")
    predictor = load_model(Settings.load(tmp_path / "model.pt", device="cuda", max_batch=8))
    inputs = [torch.rand(1 + at % 4, 512) for at in range(400)]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda each: predictor({"input": each}), inputs))
    for each, answer in zip(inputs, found, strict=True):
        np.testing.assert_allclose(answer, module.cpu()(each).detach().numpy(), atol=1e-3)
