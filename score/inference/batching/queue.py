"""Dynamic batching: requests that wait at the same time run as one forward pass, in a thread of its own.

A lone request runs at once. While the model is busy, requests gather, and all that fit together run next; where the
measured passes say that it pays, also for a moment while it is idle. What is counted is rows. Requests of other shapes,
dtypes or scalars form batches of their own; nothing is padded.

By hand: the libraries for it count requests, not rows, wait a fixed time, and let one bad row fail those beside it.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from score import log
from score.codecs.base import Arrays
from score.errors import ClientGone, DeadlinePassed, QueueFull, RequestError
from score.inference import cores
from score.inference.batching.cost_model import CostModel
from score.inference.batching.passes import Begin, Forward, Outputs, Passes
from score.inference.batching.rows import TOLERANCE, Inputs, Rows
from score.inference.batching.ticket import Deliver, Pass, Ticket, deliver, inputs_of, numbers_in, rows_in
from score.inference.batching.turns import Turns

LONG_PASS = 0.05  # seconds
SHORT_PASS = 0.01  # seconds; a longer one has work for all cores
TRIES = 5  # passes for each number of cores
CLEARLY = 0.9  # of the time with all cores
_forks = 0  # that this process has come out of since it imported this


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)  # to ask for the process's number at each request takes a system call


@dataclass(frozen=True)
class Limits:
    """`rows` in one forward pass, `requests` that may wait, and for how many seconds; `turns` that passes of several
    models take; `cores` that a pass may have, all where nothing is said."""

    rows: int
    requests: int
    seconds: float
    turns: Turns | None = None
    cores: int | None = None


@dataclass(frozen=True)
class _Begun:
    """A batch whose turn has come: when, its rows, and what waits for its outputs, where a device computes them
    already."""

    batch: Sequence[Ticket]
    at: float
    rows: int = 0
    outputs: Outputs | None = None


class Batcher:
    """Runs `forward` on what many threads submit; or has a device `begin` it, so that the next batch is put together
    and sent there meanwhile. `separable` and `tolerance` are those of `Passes`."""

    def __init__(
        self,
        forward: Forward,
        limits: Limits,
        separable: bool | None,
        tolerance: float = TOLERANCE,
        layout: Rows | None = None,
        begin: Begin | None = None,
    ) -> None:
        self.limits = limits
        self._layout = layout or Rows()
        self._passes = Passes(forward, limits.rows, separable, tolerance, self._layout, begin)
        self.running = 0  # rows in the forward pass that runs now
        self._queue: deque[Ticket] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._started_in = -1
        self._closed = threading.Event()
        self.costs = CostModel()
        self._pace = 1.0  # seconds from one request to the next
        self._last_arrival = 0.0
        self._ended = 0.0  # the last pass
        self._expected = 1  # rows in the last pass, and in the queue when it ended
        self._used_cores = torch.get_num_threads()
        self._cores = limits.cores or self._used_cores
        self._small = (0, self._cores)  # a lone request of up to so many numbers is computed with so many cores

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def separable(self) -> bool | None:
        return self._passes.separable

    @separable.setter
    def separable(self, known: bool | None) -> None:
        self._passes.separable = known

    @property
    def most_rows(self) -> int:
        """Rows in one pass."""
        return self._passes.most_rows

    def submit(self, inputs: Inputs) -> tuple[Arrays, Pass]:
        """Answer a request; blocks until then.

        Raises `QueueFull`, `DeadlinePassed`, `OutOfMemory`, or what `forward` raised for these inputs.
        """
        done = threading.Lock()
        done.acquire()
        ticket = self.enqueue(inputs, lambda _tickets: done.release())
        done.acquire()
        return ticket.answer()

    def submit_all(self, requests: Sequence[Inputs]) -> list[tuple[Arrays, Pass]]:
        """Answer several requests, in as few passes as may be; blocks until then. Raises as `submit`."""
        left, refused = threading.Semaphore(0), threading.Event()

        def deliver(found: Sequence[Ticket]) -> None:
            left.release(len(found))

        try:
            tickets = [self.enqueue(inputs, deliver, refused.is_set, wake=False) for inputs in requests]
        except RequestError:
            refused.set()
            raise
        finally:
            self.wake()
        for _ in tickets:
            left.acquire()
        return [ticket.answer() for ticket in tickets]

    def enqueue(
        self,
        inputs: Inputs,
        deliver: Deliver,
        abandoned: Callable[[], bool] = lambda: False,
        waiter: Any = None,
        *,
        wake: bool = True,
    ) -> Ticket:
        """Put a request into the queue; `deliver` gets its ticket, which keeps the `waiter`, once there is an answer.

        One that is `abandoned` before it begins is not run. Without `wake` it waits for a call of `wake`: whoever has
        several to submit wakes the model's thread once. Raises `QueueFull`.
        """
        rows, kind = self._layout.kind(inputs)
        ticket = Ticket(inputs, rows, kind, time.monotonic(), deliver, abandoned, waiter)
        with self._changed:
            if len(self._queue) >= self.limits.requests:
                raise QueueFull(f"{len(self._queue)} requests are waiting already", retry_after=self._drained_in())
            if self._started_in != _forks:
                self._start()
            self._queue.append(ticket)
            self._pace += 0.05 * (min(ticket.arrived - self._last_arrival, 1.0) - self._pace)
            self._last_arrival = ticket.arrived
            if wake:
                self._changed.notify()
        return ticket

    def wake(self) -> None:
        """Have the model's thread look at what was submitted without waking it."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """End the threads, once what waits has been answered; nothing may be submitted any more."""
        self._closed.set()
        self.wake()

    def choose_cores(self, inputs: Inputs) -> None:
        """Find out with how many cores a small request, such as this one, is answered soonest: threads wait for each
        other at every step of a pass, and where the steps are short that takes longer than they save. Raises as
        `submit`."""
        if self._cores == 1:
            return
        size = numbers_in(inputs)
        found: dict[int, float] = {}
        for count in cores.counts(self._cores):
            self._small = size, count
            found[count] = self.quickest(inputs)
            if found[count] > SHORT_PASS:
                break
        best = min(found, key=lambda count: found[count])
        self._small = size, best if found[best] < CLEARLY * found[self._cores] else self._cores
        if self._small[1] != self._cores:
            log.info("a small request is computed with %d of %d cores, which is quicker", best, self._cores)

    def quickest(self, inputs: Inputs) -> float:
        """Seconds of the quickest of a few passes; of only one, where that is long. Raises as `submit`."""
        first = self.submit(inputs)[1].computed
        if first > LONG_PASS:
            return first
        return min(first, *(self.submit(inputs)[1].computed for _ in range(TRIES - 1)))

    def _drained_in(self) -> float:
        """Seconds until what waits now is done, by what it took so far."""
        return self.costs.of(self.most_rows) * rows_in(self._queue) / self.most_rows

    def _start(self) -> None:
        """The threads, with the first request: a process forked later has none of its parent's."""
        self._started_in = _forks
        threading.Thread(target=self._run, name="model", daemon=True).start()
        threading.Thread(target=self._expire, name="deadlines", daemon=True).start()

    def _run(self) -> None:
        torch.set_flush_denormal(True)  # numbers below 1e-38, with which a processor takes a hundred times as long
        while self._wait():
            with self.limits.turns.turn() if self.limits.turns is not None else nullcontext():
                begun = self._begin(self._next())
                while self._worth_beginning(begun):
                    following = self._begin(self._next(gather=False))
                    deliver(self._end(begun))
                    begun = following
                finished = self._end(begun)
            deliver(finished)
        self._passes.close()

    def _wait(self) -> bool:
        """Wait for a request; False where none will come any more."""
        with self._changed:
            while not self._queue and not self._closed.is_set():
                self._changed.wait()
            return bool(self._queue)

    def _worth_beginning(self, ahead: _Begun) -> bool:
        """Whether what waits is to be sent to the device before a pass that it computes ends: where it is as much, or
        all that fits. Fewer rows wait until then, since more may come."""
        if ahead.outputs is None or (self.limits.turns is not None and self.limits.turns.wanted):
            return False
        return rows_in(list(self._queue)) >= min(ahead.rows, self.most_rows)

    def _begin(self, batch: Sequence[Ticket]) -> _Begun:
        """Have the device begin a batch, where it can; else it runs once `_end` asks for it."""
        at = time.monotonic()
        if not batch:
            return _Begun(batch, at)
        batch[0].passes += 1
        rows = rows_in(batch)
        rows = min(rows, max(self.most_rows, 1)) if len(batch) == 1 else rows
        self._share_cores(batch, rows, crowded=bool(self._queue) or rows < self._expected)
        return _Begun(batch, at, rows, self._passes.begin(batch))

    def _end(self, begun: _Begun) -> Sequence[Ticket]:
        """Run the model on a batch, or wait for the device, and return what is finished. A request that is larger goes
        back into the queue."""
        batch, started = begun.batch, max(begun.at, self._ended)
        if not batch:
            return ()
        self.running = begun.rows
        try:
            if begun.outputs is None:
                self._passes.answer(batch)
            else:
                self._passes.end(batch, begun.outputs)
        except Exception as error:  # noqa: BLE001  # a bug of ours: this thread must go on all the same
            for ticket in batch:
                ticket.error = error
        finished = self._ended = time.monotonic()
        self.running = 0
        self.costs.learn(begun.rows, finished - started)
        self._expected = begun.rows + rows_in(list(self._queue))
        for ticket in batch:
            if ticket.begun is None:
                ticket.begun = started
            ticket.computed += finished - started
            ticket.took = Pass(ticket.begun - ticket.arrived, ticket.computed, ticket.rows, begun.rows, ticket.passes)
        if unfinished := [ticket for ticket in batch if not ticket.finished]:
            with self._changed:  # those that came meanwhile have their turn before the rest of it
                self._queue.extend(unfinished)
        return [ticket for ticket in batch if ticket.finished] if unfinished else batch

    def _share_cores(self, batch: Sequence[Ticket], rows: int, crowded: bool) -> None:
        """All cores for a lone request, or as many as a small one is quickest with; under load, one is left to reading
        and writing requests, which would otherwise take turns with a thread that all others of the forward pass wait
        for. A long pass has few of them beside it."""
        most, best = self._small
        if crowded and self.costs.of(rows) < LONG_PASS:
            wanted = max(self._cores - 1, 1)
        else:
            small = best < self._cores and len(batch) == 1 and numbers_in(batch[0].inputs) <= most
            wanted = best if small else self._cores
        if wanted != self._used_cores:
            self._used_cores = wanted
            torch.set_num_threads(wanted)

    def _next(self, *, gather: bool = True) -> list[Ticket]:
        """The oldest request, and those in the queue that can run with it; nothing where all have been given up."""
        with self._changed:
            if gather:
                self._gather()
            self._drop_abandoned()
            if not self._queue:
                return []
            first = self._queue[0]
            if first.kind is None or self.separable is False or self._passes.is_large(first):
                return [self._queue.popleft()]
            alike = [ticket for ticket in self._queue if ticket.kind == first.kind and not ticket.done]
            places = self._layout.choose(inputs_of(alike), [ticket.rows for ticket in alike], self.most_rows)
            batch = [alike[at] for at in places]
            if len(batch) == len(self._queue):
                self._queue.clear()
            else:
                chosen = set(batch)
                self._queue = deque(ticket for ticket in self._queue if ticket not in chosen)
            return batch

    def _drop_abandoned(self) -> None:
        """Take out of the queue what nobody waits for any more."""
        gone = [ticket for ticket in self._queue if ticket.abandoned()]
        for ticket in gone:
            self._queue.remove(ticket)
            ticket.error = ClientGone("the client closed the connection before its request was begun")
        deliver(gone)

    def _gather(self) -> None:
        """Wait for more rows where that is sure to pay, since many often take little longer than few.

        As many are expected as ran or waited when the last pass ended: none for a lone client, whose requests never
        wait. What waits now and what is expected could run as two passes, while the others arrive; or as one, once they
        have arrived. What each takes has been measured, and so has the time from one request to the next. Of that time,
        a pass that runs meanwhile saves what other cores can do: none where there is only one core.
        """
        wanted = min(self._expected, self.most_rows)
        rows = rows_in(self._queue)
        end = time.monotonic() + 2 * (wanted - rows) * self._pace
        overlap = 1 - 1 / self._cores
        turns = self.limits.turns
        while (
            rows < wanted
            and not (turns and turns.wanted)
            and self.costs.gain(rows, wanted) > (wanted - rows) * self._pace * overlap
        ):
            waited = self._changed.wait(min(4 * self._pace, end - time.monotonic()))
            rows = rows_in(self._queue)
            if not waited or time.monotonic() > end:
                break  # they have stopped coming

    def _expire(self) -> None:
        """Take out of the queue what has waited too long. All wait equally long, so the oldest is first, and nothing
        that comes while this sleeps is due before it wakes."""
        pause = 0.0
        while not self._closed.wait(pause):
            now = time.monotonic()
            with self._changed:
                waiting = [ticket for ticket in self._queue if not ticket.done]  # in the order in which they came
                late = [ticket for ticket in waiting if now >= ticket.arrived + self.limits.seconds]
                for ticket in late:
                    self._queue.remove(ticket)
                oldest = waiting[len(late)].arrived if len(waiting) > len(late) else now
            for ticket in late:
                ticket.error = DeadlinePassed(f"the request waited {now - ticket.arrived:.1f} s and was not begun")
            deliver(late)
            pause = max(oldest + self.limits.seconds - now, 0.001)
