"""A request on its way through the batcher."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from score.codecs.base import Arrays
from score.inference.batching.rows import Inputs

# Called with all requests of a pass that were submitted with it, so that many can be woken at once; from any thread.
Deliver = Callable[[Sequence["Ticket"]], None]


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


def deliver(tickets: Sequence[Ticket]) -> None:
    """Tell those that wait, with one call for all that wait in the same way."""
    if tickets and all(ticket.deliver == tickets[0].deliver for ticket in tickets):  # as nearly always
        tickets[0].deliver(tickets)
        return
    waiting: dict[Deliver, list[Ticket]] = {}
    for ticket in tickets:
        waiting.setdefault(ticket.deliver, []).append(ticket)
    for tell, group in waiting.items():
        tell(group)


def rows_in(tickets: Iterable[Ticket]) -> int:
    """Rows that have yet to run."""
    return sum([ticket.left for ticket in tickets])


def numbers_in(inputs: Inputs) -> int:
    return sum([value.numel() for value in inputs.values() if isinstance(value, torch.Tensor)])


def inputs_of(batch: Sequence[Ticket]) -> list[Inputs]:
    return [ticket.inputs for ticket in batch]
