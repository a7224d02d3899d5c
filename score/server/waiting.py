"""Requests of an event loop that wait for a model, without a thread or a turn of the loop for each."""

import asyncio
from collections.abc import Callable, Sequence

from score import log
from score.inference.batching.queue import Batcher
from score.inference.batching.rows import Inputs
from score.inference.batching.ticket import Ticket

Resume = Callable[[Ticket], None]
"""Called on the loop once the model has answered."""


class Waiting:
    """A model's thread is woken once for all requests that are read in one turn of the loop; those that one pass has
    answered are resumed by one call to the loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that all requests come from
        self._waking: set[Batcher] = set()  # those that are woken in this turn of the loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # which is a system call
        return self._loop

    def submit(self, batcher: Batcher, inputs: Inputs, abandoned: Callable[[], bool], resume: Resume) -> None:
        """Have a model answer; a request that is `abandoned` before it begins is dropped. Raises `QueueFull`."""
        batcher.enqueue(inputs, self._deliver, abandoned, resume, wake=False)
        if batcher not in self._waking:
            self._waking.add(batcher)
            self.loop.call_soon(self._wake, batcher)

    def _wake(self, batcher: Batcher) -> None:
        self._waking.discard(batcher)
        batcher.wake()

    def _deliver(self, tickets: Sequence[Ticket]) -> None:
        """From the model's thread."""
        self.loop.call_soon_threadsafe(_resume, tickets)


def _resume(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        try:
            ticket.waiter(ticket)
        except Exception:  # noqa: BLE001  # of one request: the others have theirs to come
            log.exception("a bug in the server")
