"""Ends a process whose model does not come back: a forward pass that never ends would be healthy for ever.

Of a worker, gunicorn starts another in its place. The reason is the last thing in the log.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from score.errors import ModelStuck

HOPELESS_AFTER, HOPELESS_FACTOR = 5.0, 10.0  # seconds, and times the longest pass so far

_begun: dict[int, float] = {}  # when the forward pass of a thread began, as time.monotonic has it
_longest = 0.0


@contextmanager
def forward_pass() -> Iterator[None]:
    """Around each call of a model."""
    global _longest
    thread, started = threading.get_ident(), time.monotonic()
    _begun[thread] = started
    try:
        yield
    finally:
        del _begun[thread]
        _longest = max(_longest, time.monotonic() - started)


def running_for() -> float:
    """Seconds that the oldest forward pass has been running; 0 where none is."""
    begun = min(_begun.copy().values(), default=None)
    return 0.0 if begun is None else time.monotonic() - begun


def hopeless() -> bool:
    """Whether a forward pass takes so long that a server that has to end does not wait for it."""
    return running_for() > max(HOPELESS_AFTER, HOPELESS_FACTOR * _longest)


def watch(after: float, end: Callable[[ModelStuck], None]) -> None:
    """Call `end` once a forward pass has taken more than `after` seconds, for as long as this process lives."""
    if after <= 0:
        return

    def work() -> None:
        while (took := running_for()) <= after:
            time.sleep(min(max(after / 20, 0.02), 1.0))
        end(ModelStuck(f"a forward pass has run for {took:.1f} s, and does not come to an end"))

    threading.Thread(target=work, name="watchdog", daemon=True).start()


def end_command(error: ModelStuck) -> None:
    """Say why, and end this process with the exit code of a checkpoint that can't be served."""
    sys.stderr.write(f"{error.screen()}\n")
    sys.stderr.flush()
    os._exit(error.exit_code)
