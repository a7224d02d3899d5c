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
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from score import log
from score.codecs.base import Arrays
from score.errors import ClientGone, DeadlinePassed, OutOfMemory, QueueFull, RequestError
from score.inference.batching.cost_model import CostModel
from score.inference.batching.rows import (
    TOLERANCE,
    Inputs,
    Rows,
    all_equal,
    concatenated,
    has_rows,
    part_of,
    same_rows,
    shapes_of,
)
from score.inference.batching.turns import Turns

Forward = Callable[[Inputs], Arrays]


# Called with all requests of a pass that were submitted with it, so that many can be woken at once; from any thread.
Deliver = Callable[[Sequence["Ticket"]], None]


LONG_PASS = 0.05  # seconds
_forks = 0  # that this process has come out of since it imported this


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)  # to ask for the process's number at each request takes a system call


@dataclass(frozen=True)
class Limits:
    """`rows` in one forward pass, `requests` that may wait, and for how many seconds; `turns` that passes of several
    models take."""

    rows: int
    requests: int
    seconds: float
    turns: Turns | None = None


class Pass(NamedTuple):
    """What a request's forward pass was: seconds in the queue and in the model, and the rows it ran with. `passes` are
    those in which it was the first, so that each is counted once."""

    queued: float
    computed: float
    rows: int
    batch_rows: int
    passes: int = 1


@dataclass(eq=False)
class Ticket:
    """A request in the queue; `deliver` is called once it is `finished`."""

    inputs: Inputs
    rows: int
    kind: Any  # requests of equal kind can be one batch; None fits none
    arrived: float
    deliver: Deliver
    abandoned: Callable[[], bool]
    waiter: Any = None  # of `deliver`
    outputs: Arrays | None = None
    error: Exception | None = None
    took: Pass | None = None
    parts: list[Arrays] = field(default_factory=list)  # of a request that is larger than a pass, those that have run
    done: int = 0  # its rows that have run
    begun: float | None = None
    computed: float = 0.0
    passes: int = 0

    @property
    def left(self) -> int:
        return self.rows - self.done

    @property
    def finished(self) -> bool:
        return self.outputs is not None or self.error is not None

    def answer(self) -> tuple[Arrays, Pass]:
        """The outputs and what their pass was; raises what the model, or waiting for it, ended with."""
        if self.error is not None:
            raise self.error
        assert self.outputs is not None and self.took is not None
        return self.outputs, self.took


class Batcher:
    """Runs `forward` on what many threads submit.

    `separable` says whether the model answers each row of a batch by itself: only then are requests put together, or
    split. Where it is None, that is found out from the first two requests that could have been one batch; `tolerance`
    is how far their answers may be apart, relative to the largest value.
    """

    def __init__(
        self,
        forward: Forward,
        limits: Limits,
        separable: bool | None,
        tolerance: float = TOLERANCE,
        layout: Rows | None = None,
    ) -> None:
        self.limits = limits
        self.separable = separable
        self._tolerance = tolerance
        self._layout = layout or Rows()
        self.running = 0  # rows in the forward pass that runs now
        self._forward = forward
        self.most_rows = limits.rows  # less, once the device has run out of memory
        self._queue: deque[Ticket] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._started_in = -1
        self._closed = threading.Event()
        self.costs = CostModel()
        self._pace = 1.0  # seconds from one request to the next
        self._last_arrival = 0.0
        self._expected = 1  # rows in the last pass, and in the queue when it ended
        self._cores = self._used_cores = torch.get_num_threads()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

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

    def _drained_in(self) -> float:
        """Seconds until what waits now is done, by what it took so far."""
        rows = _rows_in(self._queue)
        return self.costs.of(self.most_rows) * rows / self.most_rows

    def _start(self) -> None:
        """The threads, with the first request: a process forked later has none of its parent's."""
        self._started_in = _forks
        threading.Thread(target=self._run, name="model", daemon=True).start()
        threading.Thread(target=self._expire, name="deadlines", daemon=True).start()

    def _run(self) -> None:
        torch.set_flush_denormal(True)  # numbers below 1e-38, with which a processor takes a hundred times as long
        while self._wait():
            with self.limits.turns.turn() if self.limits.turns is not None else nullcontext():
                finished = self._pass(self._next())
            _deliver(finished)
        self._forward = _gone

    def _wait(self) -> bool:
        """Wait for a request; False where none will come any more."""
        with self._changed:
            while not self._queue and not self._closed.is_set():
                self._changed.wait()
            return bool(self._queue)

    def _pass(self, batch: Sequence[Ticket]) -> Sequence[Ticket]:
        """Run the model on a batch, and return what is finished. A request that is larger goes back into the queue."""
        if not batch:
            return ()
        started = time.monotonic()
        batch[0].passes += 1
        rows = _rows_in(batch)
        self.running = min(rows, max(self.most_rows, 1)) if len(batch) == 1 else rows
        self._share_cores(crowded=bool(self._queue) or self.running < self._expected)
        try:
            self._answer(batch)
        except Exception as error:  # noqa: BLE001  # a bug of ours: this thread must go on all the same
            for ticket in batch:
                ticket.error = error
        finished, ran = time.monotonic(), self.running
        self.running = 0
        self.costs.learn(ran, finished - started)
        self._expected = ran + _rows_in(list(self._queue))
        for ticket in batch:
            if ticket.begun is None:
                ticket.begun = started
            ticket.computed += finished - started
            ticket.took = Pass(ticket.begun - ticket.arrived, ticket.computed, ticket.rows, ran, ticket.passes)
        if unfinished := [ticket for ticket in batch if not ticket.finished]:
            with self._changed:  # those that came meanwhile have their turn before the rest of it
                self._queue.extend(unfinished)
        return [ticket for ticket in batch if ticket.finished] if unfinished else batch

    def _share_cores(self, crowded: bool) -> None:
        """All cores for a lone request; under load, one is left to reading and writing requests, which would otherwise
        take turns with a thread that all others of the forward pass wait for. A long pass has few of them beside it."""
        short = self.costs.of(self.running) < LONG_PASS
        wanted = max(self._cores - 1, 1) if crowded and short else self._cores
        if wanted != self._used_cores:
            self._used_cores = wanted
            torch.set_num_threads(wanted)

    def _next(self) -> list[Ticket]:
        """The oldest request, and those in the queue that can run with it; nothing where all have been given up."""
        with self._changed:
            self._gather()
            self._drop_abandoned()
            if not self._queue:
                return []
            first = self._queue.popleft()
            batch, rows = [first], first.left
            if first.kind is None or self.separable is False or self._is_large(first):
                return batch
            left: deque[Ticket] = deque()
            for ticket in self._queue:
                if ticket.kind == first.kind and not ticket.done and rows + ticket.rows <= self.most_rows:
                    batch.append(ticket)
                    rows += ticket.rows
                else:
                    left.append(ticket)
            self._queue = left
            return batch

    def _is_large(self, ticket: Ticket) -> bool:
        """Whether a request takes several passes, and so takes turns with others."""
        return bool(ticket.done) or bool(self.separable and ticket.kind is not None and ticket.rows > self.most_rows)

    def _drop_abandoned(self) -> None:
        """Take out of the queue what nobody waits for any more."""
        gone = [ticket for ticket in self._queue if ticket.abandoned()]
        for ticket in gone:
            self._queue.remove(ticket)
            ticket.error = ClientGone("the client closed the connection before its request was begun")
        _deliver(gone)

    def _gather(self) -> None:
        """Wait for more rows where that is sure to pay, since many often take little longer than few.

        As many are expected as ran or waited when the last pass ended: none for a lone client, whose requests never
        wait. What waits now and what is expected could run as two passes, while the others arrive; or as one, once they
        have arrived. What each takes has been measured, and so has the time from one request to the next. Of that time,
        a pass that runs meanwhile saves what other cores can do: none where there is only one core.
        """
        wanted = min(self._expected, self.most_rows)
        rows = _rows_in(self._queue)
        end = time.monotonic() + 2 * (wanted - rows) * self._pace
        overlap = 1 - 1 / self._cores
        turns = self.limits.turns
        while (
            rows < wanted
            and not (turns and turns.wanted)
            and self.costs.gain(rows, wanted) > (wanted - rows) * self._pace * overlap
        ):
            waited = self._changed.wait(min(4 * self._pace, end - time.monotonic()))
            rows = _rows_in(self._queue)
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
            _deliver(late)
            pause = max(oldest + self.limits.seconds - now, 0.001)

    def _answer(self, batch: Sequence[Ticket]) -> None:
        """Give each ticket its outputs or its error. No request fails for another's fault: of a batch that fails, each
        half runs again by itself, until a culprit is alone."""
        if len(batch) == 1 and self._is_large(batch[0]):
            self._part_of(batch[0])
        elif len(batch) == 1 or self.separable is False:  # the latter was found out just now
            self._alone(batch)
        elif self.separable is None:
            self._try_together(batch)
        else:
            try:
                self._share_out(batch, self._rows(self._layout.join(_inputs(batch)), _rows_in(batch), self._together))
            except Exception as error:  # noqa: BLE001  # whatever it was, the halves say whose
                log.debug("a batch of %d requests failed: %s", len(batch), error)
                self._answer(batch[: len(batch) // 2])
                self._answer(batch[len(batch) // 2 :])

    def _part_of(self, ticket: Ticket) -> None:
        """As many rows of a large request as fit into a pass."""
        end = min(ticket.done + self.most_rows, ticket.rows)
        try:
            part = part_of(ticket.inputs, ticket.done, end)
            ticket.parts.append(self._rows(part, end - ticket.done, self._together))
            ticket.done = end
            if end == ticket.rows:
                ticket.outputs = concatenated(ticket.parts)
        except _NotRows:
            self._alone([ticket])
        except Exception as error:  # noqa: BLE001  # it goes to the caller
            ticket.error = error

    def _alone(self, batch: Sequence[Ticket]) -> None:
        for ticket in batch:
            try:
                ticket.outputs = self._whole(ticket)
            except Exception as error:  # noqa: BLE001  # it goes to the caller
                ticket.error = error

    def _whole(self, ticket: Ticket) -> Arrays:
        """One request by itself, in parts only where it is too large."""
        if ticket.kind is None:
            return self._forward(ticket.inputs)
        try:
            return self._rows(ticket.inputs, ticket.rows, lambda inputs, _rows: self._forward(inputs))
        except _NotRows:
            return self._forward(ticket.inputs)

    def _try_together(self, batch: Sequence[Ticket]) -> None:
        """Answer one by one, then look whether one pass over all of them says the same."""
        self._alone(batch)
        if any(ticket.error for ticket in batch) or all_equal(_inputs(batch)):
            return  # they tell nothing
        alone = [ticket.outputs for ticket in batch]
        try:
            together = self._forward(self._layout.join(_inputs(batch)))
            self.separable = same_rows(together, alone, [ticket.rows for ticket in batch], self._tolerance)
        except RequestError:
            self.separable = False
        log.info("requests %s be answered in batches", "can" if self.separable else "can't")

    def _share_out(self, batch: Sequence[Ticket], outputs: Arrays) -> None:
        parts = self._layout.split(outputs, _inputs(batch), [ticket.rows for ticket in batch])
        for ticket, part in zip(batch, parts, strict=True):
            ticket.outputs = part

    def _together(self, inputs: Inputs, rows: int) -> Arrays:
        """Run the model on rows of several requests, or on some of one's. Raises `_NotRows`."""
        outputs = self._forward(inputs)
        if not has_rows(outputs, rows):
            self.separable = False
            raise _NotRows(f"{rows} rows went in, and the outputs are {shapes_of(outputs)}")
        return outputs

    def _rows(self, inputs: Inputs, rows: int, forward: Callable[[Inputs, int], Arrays]) -> Arrays:
        """Run the model on no more rows at a time than are allowed, and on fewer yet where the memory does not
        suffice."""
        if not self.separable:
            return self._forward(inputs)
        if rows <= self.most_rows:
            try:
                return forward(inputs, rows)
            except OutOfMemory:
                if rows < 2:
                    raise
                torch.cuda.empty_cache()  # does nothing where CUDA was not used
                self.most_rows = rows // 2
                log.warning("out of memory with %d rows: from now on %d at most", rows, self.most_rows)
        parts = []
        start = 0
        while start < rows:
            end = min(start + self.most_rows, rows)
            parts.append(self._rows(part_of(inputs, start, end), end - start, self._together))
            start = end
        return concatenated(parts)


class _NotRows(Exception):
    """A model that seemed to answer row by row did not. Never seen outside: the requests run again, each whole."""


def _gone(_inputs: Inputs) -> Arrays:
    """In place of a model whose batcher is closed: nothing holds on to it."""
    raise RuntimeError("the batcher is closed")


def _inputs(batch: Sequence[Ticket]) -> list[Inputs]:
    return [ticket.inputs for ticket in batch]


def _deliver(tickets: Sequence[Ticket]) -> None:
    """Tell those that wait, with one call for all that wait in the same way."""
    if tickets and all(ticket.deliver == tickets[0].deliver for ticket in tickets):  # as nearly always
        tickets[0].deliver(tickets)
        return
    waiting: dict[Deliver, list[Ticket]] = {}
    for ticket in tickets:
        waiting.setdefault(ticket.deliver, []).append(ticket)
    for deliver, group in waiting.items():
        deliver(group)


def _rows_in(tickets: Iterable[Ticket]) -> int:
    return sum([ticket.left for ticket in tickets])
