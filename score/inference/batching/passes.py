"""How a batch is answered: as one forward pass, in parts, or each request by itself, so that none fails for another's
fault."""

from collections.abc import Callable, Sequence

import torch

from score import log
from score.codecs.base import Arrays
from score.errors import OutOfMemory, RequestError
from score.inference.batching.rows import (
    Inputs,
    Rows,
    all_equal,
    concatenated,
    has_rows,
    part_of,
    same_rows,
    shapes_of,
)
from score.inference.batching.ticket import Ticket, inputs_of, rows_in

Forward = Callable[[Inputs], Arrays]
Outputs = Callable[[], Arrays]  # waits for what a device computes
Begin = Callable[[Inputs], Outputs | None]
"""Has a device begin a forward pass, and does not wait for it; None for what has to run at once. Passes end in the
order in which they were begun."""


class Passes:
    """Runs `forward`, or has `begin` begin what it can.

    `separable` says whether the model answers each row of a batch by itself; None until that has been found out, from
    the first two requests that could have been one batch. `most_rows` run in one pass: less, once the device has run
    out of memory. Answers may be `tolerance` apart, relative to the largest value.
    """

    def __init__(
        self,
        forward: Forward,
        most_rows: int,
        separable: bool | None,
        tolerance: float,
        layout: Rows,
        begin: Begin | None = None,
    ) -> None:
        self.separable, self.most_rows = separable, most_rows
        self._forward, self._begin = forward, begin
        self._tolerance, self._layout = tolerance, layout

    def close(self) -> None:
        """Hold on to no model any more."""
        self._forward, self._begin = _gone, None

    def is_large(self, ticket: Ticket) -> bool:
        """Whether a request takes several passes, and so takes turns with others."""
        return bool(ticket.done) or bool(self.separable and ticket.kind is not None and ticket.rows > self.most_rows)

    def answer(self, batch: Sequence[Ticket]) -> None:
        """Give each ticket its outputs or its error. No request fails for another's fault: of a batch that fails, each
        half runs again by itself, until a culprit is alone."""
        if len(batch) == 1 and self.is_large(batch[0]):
            self._part_of(batch[0])
        elif len(batch) == 1 or self.separable is False:  # the latter was found out just now
            self._alone(batch)
        elif self.separable is None:
            self._try_together(batch)
        else:
            try:
                self._share_out(batch, self._rows(self._layout.join(inputs_of(batch)), rows_in(batch), self._together))
            except Exception as error:  # noqa: BLE001  # whatever it was, the halves say whose
                log.debug("a batch of %d requests failed: %s", len(batch), error)
                self.answer(batch[: len(batch) // 2])
                self.answer(batch[len(batch) // 2 :])

    def begin(self, batch: Sequence[Ticket]) -> Outputs | None:
        """Have the device begin a batch that is one pass; None where `answer` has to run it."""
        if self._begin is None or self.is_large(batch[0]) or (len(batch) > 1 and not self.separable):
            return None
        try:
            return self._begin(self._layout.join(inputs_of(batch)) if len(batch) > 1 else batch[0].inputs)
        except Exception as error:  # noqa: BLE001  # run at once, it says whose fault it was
            log.debug("a batch of %d requests was not begun: %s", len(batch), error)
            return None

    def end(self, batch: Sequence[Ticket], outputs: Outputs) -> None:
        """Give each ticket of a batch that was begun its outputs or its error; what fails runs again, as `answer`
        has it."""
        try:
            found = outputs()
            if len(batch) > 1:
                self._share_out(batch, self._checked(found, rows_in(batch)))
            elif self.separable and batch[0].kind is not None:
                batch[0].outputs = self._checked(found, batch[0].rows)
            else:
                batch[0].outputs = found
        except Exception as error:  # noqa: BLE001  # whatever it was
            log.debug("a batch of %d requests that was begun failed: %s", len(batch), error)
            self.answer(batch)

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
        if any(ticket.error for ticket in batch) or all_equal(inputs_of(batch)):
            return  # they tell nothing
        alone = [ticket.outputs for ticket in batch]
        try:
            together = self._forward(self._layout.join(inputs_of(batch)))
            self.separable = same_rows(together, alone, [ticket.rows for ticket in batch], self._tolerance)
        except RequestError:
            self.separable = False
        log.info("requests %s be answered in batches", "can" if self.separable else "can't")

    def _share_out(self, batch: Sequence[Ticket], outputs: Arrays) -> None:
        parts = self._layout.split(outputs, inputs_of(batch), [ticket.rows for ticket in batch])
        for ticket, part in zip(batch, parts, strict=True):
            ticket.outputs = part

    def _together(self, inputs: Inputs, rows: int) -> Arrays:
        """Run the model on rows of several requests, or on some of one's. Raises `_NotRows`."""
        return self._checked(self._forward(inputs), rows)

    def _checked(self, outputs: Arrays, rows: int) -> Arrays:
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
    raise RuntimeError("the batcher is closed")
