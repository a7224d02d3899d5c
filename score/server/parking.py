"""How a request waits for what another thread does: a thread blocks, a greenlet of `score.server.worker` gives way.

The code that waits need not know which of the two it runs in.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from greenlet import getcurrent, greenlet


class Spot(Protocol):
    """One waiter's place. `wake` may be called from any thread, before or after `park`, once; `left` says whether its
    client has gone, as far as that is known."""

    def park(self) -> None: ...
    def wake(self) -> None: ...
    def left(self) -> bool: ...


class Handler(greenlet):
    """A greenlet that handles a connection; `wake` makes its loop resume it."""

    def __init__(self, run: Callable[[], None], wake: Callable[["Handler"], None]) -> None:
        super().__init__(run)
        self.wake = wake
        self.gone = False  # the client has closed the connection


class _ThreadSpot:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.park = self._lock.acquire
        self.wake = self._lock.release

    def left(self) -> bool:
        return False


class _GreenletSpot:
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def park(self) -> None:
        # `wake` only puts the greenlet on its loop's list, which the loop reads after this switch: none is lost.
        assert self._handler.parent is not None
        self._handler.parent.switch()

    def wake(self) -> None:
        self._handler.wake(self._handler)

    def left(self) -> bool:
        return self._handler.gone


def spot() -> Spot:
    """A place for whatever runs now."""
    current = getcurrent()
    return _GreenletSpot(current) if isinstance(current, Handler) else _ThreadSpot()  # type: ignore[return-value]
