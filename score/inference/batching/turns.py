"""Forward passes of several models take turns: one at a time, in the order in which they were asked for.

Two passes at a time share the cores, and both take longer than one after the other; and a model with many requests
would crowd out one with few.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Shared by all batchers of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    @property
    def wanted(self) -> bool:
        """Whether another model waits for its turn."""
        return bool(self._waiting)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn of whoever asks, and have it until the end of the block."""
        mine: threading.Lock | None = None
        with self._lock:
            if self._taken:
                mine = threading.Lock()
                mine.acquire()
                self._waiting.append(mine)
            self._taken = True
        if mine is not None:
            mine.acquire()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._taken = False
