"""The log, written by a thread of its own: no request waits for it, not even where nobody reads the pipe.

What does not fit into the queue is dropped, and the log says how much that was. At the end, all that is there is
written, if anybody takes it. Lines of which there is one for each request are `said`: not even their records are made
where they come from, since logging takes as long for one as a small model's forward pass.
"""

import contextlib
import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any

from score import log

MOST_WAITING = 20_000  # lines
GATHER = 0.02  # seconds in which lines gather
PATIENCE = 2.0  # seconds for the last lines to be taken, at the end


Made = Callable[..., tuple[str, tuple[Any, ...]]]
"""Makes a line's text, with what to put into it."""
_Said = tuple[float, Made, tuple[Any, ...]]  # when, and what the line is made of
_ODD = "a \"text\" 'with' \\ % \u00e9"  # comes out as it is from what only writes something before it


def say(made: Made, *given: Any) -> None:
    """A line at INFO of the project's own logger: what `made` makes of what is given, once it is written."""
    if not log.isEnabledFor(logging.INFO):
        return
    if _running is not None:
        _running.say(made, given)
    else:
        form, args = made(*given)
        log.info(form, *args)


class Background:
    """Takes the place of every handler that writes to standard output or standard error, until `stop`."""

    def __init__(self) -> None:
        global _running
        self._waiting: queue.SimpleQueue[tuple[logging.Handler, logging.LogRecord] | None] = queue.SimpleQueue()
        self._said: deque[_Said] = deque()
        self._woken = False  # the thread is going to look at what was said
        self._taken = self._written = self._lost = 0  # lines
        self._replaced: list[tuple[logging.Logger, logging.Handler, _Put]] = []
        put: dict[logging.Handler, _Put] = {}
        for logger in _loggers():
            for handler in [each for each in logger.handlers if _writes(each)]:
                ours = put.setdefault(handler, _Put(handler, self))
                logger.removeHandler(handler)
                logger.addHandler(ours)
                self._replaced.append((logger, handler, ours))
        self._template = logging.LogRecord(log.name, logging.INFO, __file__, 0, "", None, None).__dict__
        self._last: tuple[Any, str | None] = (None, None)  # of `_before`
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        _running = self

    def put(self, handler: logging.Handler, record: logging.LogRecord) -> None:
        if self._has_room():
            self._waiting.put((handler, record))

    def say(self, made: Made, given: tuple[Any, ...]) -> None:
        if self._has_room():
            self._said.append((time.time(), made, given))
            if not self._woken:
                self._woken = True
                self._waiting.put(None)

    def _has_room(self) -> bool:
        room = self._taken - self._written < MOST_WAITING
        if room:
            self._taken += 1
        else:
            self._lost += 1
        return room

    def drain(self, patience: float = PATIENCE) -> bool:
        """Wait until what is there has been written; whether it was."""
        end = time.monotonic() + patience
        while self._written < self._taken and time.monotonic() < end:
            time.sleep(0.01)
        return self._written >= self._taken

    def stop(self) -> bool:
        """Write what is there, and give the handlers back; False where nobody takes it."""
        global _running
        _running, self._ended = None, True
        self._waiting.put(None)
        self._thread.join(PATIENCE)
        for logger, handler, ours in self._replaced:
            logger.removeHandler(ours)
            logger.addHandler(handler)
        return not self._thread.is_alive()

    def _run(self) -> None:
        """Write what has gathered, many lines at a time: each turn of this thread costs the others theirs."""
        ended = False
        while not ended:
            waiting = [self._waiting.get()]
            time.sleep(GATHER)
            ended = self._ended  # before the last look
            self._woken = False  # before the look too: at the worst, what is said meanwhile wakes this for nothing
            while not self._waiting.empty():
                waiting.append(self._waiting.get())
            said = [self._said.popleft() for _ in range(len(self._said))]
            lines: dict[logging.Handler, list[tuple[float, str]]] = {}
            for handler, record in filter(None, waiting):
                if handler.filter(record):
                    lines.setdefault(handler, []).append((record.created, handler.format(record)))
            for handler in _reached(log):
                self._add(said, handler, lines)
            for handler, each in lines.items():
                self._write(handler, [text for _, text in sorted(each, key=itemgetter(0))])
            self._written += sum(entry is not None for entry in waiting) + len(said)

    def _add(
        self, said: Iterable[_Said], handler: logging.Handler, lines: dict[logging.Handler, list[tuple[float, str]]]
    ) -> None:
        """What was said, as a handler of the project's logger takes it."""
        if handler.level > logging.INFO:
            return
        if not isinstance(handler, _Put):
            for created, made, given in said:
                handler.handle(self._record(created, *made(*given)))
            return
        behind = handler.behind
        found = lines.setdefault(behind, [])
        for created, made, given in said:
            form, args = made(*given)
            if (before := self._before(behind, created)) is not None:
                found.append((created, before + (form % args if args else form)))
            elif behind.filter(record := self._record(created, form, args)):
                found.append((created, behind.format(record)))

    def _before(self, handler: logging.Handler, created: float) -> str | None:
        """What a handler writes before a line's text, which is all that most do: the same within a millisecond. None
        for one that does something else to it."""
        key = (handler, int(created * 1000))
        if key != self._last[0]:
            empty, full = (handler.format(self._record(created, each)) for each in ("", _ODD))
            self._last = key, empty if full == empty + _ODD and not handler.filters else None
        return self._last[1]

    def _record(self, created: float, form: str, args: tuple[Any, ...] = ()) -> logging.LogRecord:
        """As logging makes one, without a look at the caller, the thread, the process and the task."""
        own = {"msg": form, "args": args, "created": created, "msecs": created % 1 * 1000}
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__ = self._template | own
        return record

    def _write(self, handler: logging.Handler, lines: list[str]) -> None:
        assert isinstance(handler, logging.StreamHandler)
        if self._lost:
            lost, self._lost = self._lost, 0
            message = f"{lost} lines of the log are missing here: nobody read it fast enough"
            lines.append(handler.format(logging.LogRecord(log.name, logging.WARNING, __file__, 0, message, None, None)))
        with contextlib.suppress(OSError, ValueError):  # the pipe has ended: nobody is left to be told
            handler.stream.write("".join([line + handler.terminator for line in lines]))
            handler.stream.flush()


_running: Background | None = None


class _Put(logging.Handler):
    """Hands records on. Formatting is the thread's work too."""

    def __init__(self, behind: logging.Handler, background: Background) -> None:
        super().__init__(behind.level)
        self.behind, self._background = behind, background

    def handle(self, record: logging.LogRecord) -> bool:
        if record.exc_info and not record.exc_text:  # a traceback holds on to all that it came through
            record.exc_text = (self.behind.formatter or logging.Formatter()).formatException(record.exc_info)
            record.exc_info = None
        self._background.put(self.behind, record)
        return True

    def flush(self) -> None:
        self._background.drain()


def _loggers() -> list[logging.Logger]:
    known = logging.Logger.manager.loggerDict.values()
    return [logging.getLogger(), *(each for each in known if isinstance(each, logging.Logger))]


def _writes(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


def _reached(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    """The handlers that a logger's records come to."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None
