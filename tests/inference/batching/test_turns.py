"""Forward passes of several models take turns."""

import threading
import time

import torch

from score.inference.batching.queue import Batcher, Limits
from score.inference.batching.turns import Turns
from tests.real_server import until


def test_turns_are_had_in_the_order_in_which_they_were_asked_for() -> None:
    turns, order, asked = Turns(), [], []

    def work(name: int) -> None:
        asked.append(name)
        with turns.turn():
            order.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    with turns.turn():
        for at, thread in enumerate(threads):
            thread.start()
            until(lambda at=at: len(turns._waiting) == at + 1)  # type: ignore[misc]
    for thread in threads:
        thread.join(10)
    assert order == asked == list(range(8))
    assert not turns.wanted


def test_a_model_with_many_requests_does_not_crowd_out_one_with_few() -> None:
    turns, passes = Turns(), []

    def model(name: str) -> Batcher:
        def forward(inputs: dict) -> object:
            passes.append(name)
            time.sleep(0.01)
            return inputs["x"].numpy()

        return Batcher(forward, Limits(1, 1000, 60, turns), True)

    busy, quiet = model("busy"), model("quiet")
    row = {"x": torch.ones(1, 2)}
    done = threading.Semaphore(0)
    for _ in range(50):
        busy.enqueue(row, lambda tickets: done.release(len(tickets)))
    until(lambda: len(passes) > 2)
    before = len(passes)
    quiet.submit(row)
    assert passes.index("quiet") <= before + 2  # the pass that ran, and at most one that was next
    busy.close()
    quiet.close()
    for _ in range(50):
        assert done.acquire(timeout=10)  # what was submitted before is answered all the same


def test_a_closed_batcher_ends_its_threads_and_lets_go_of_the_model() -> None:
    import gc
    import weakref

    class Model:
        def __call__(self, inputs: dict) -> object:
            return inputs["x"].numpy()

    model = Model()
    kept = weakref.ref(model)
    batcher = Batcher(model, Limits(8, 8, 60), True)
    batcher.submit({"x": torch.ones(1, 2)})
    del model
    batcher.close()

    def gone() -> bool:
        gc.collect()
        return kept() is None

    until(gone)
