"""The log, written by a thread of its own: no request waits for it, not even where nobody reads the pipe.

What does not fit into the queue is dropped, and the log says how much that was. At the end, all that is there is
written, if anybody takes it.
"""

import contextlib
import logging
import queue
import sys
import threading
import time
from itertools import groupby

from score import log

MOST_WAITING = 20_000  # lines
GATHER = 0.02  # seconds in which lines gather
PATIENCE = 2.0  # seconds for the last lines to be taken, at the end


class Background:
    """Takes the place of every handler that writes to standard output or standard error, until `stop`."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[logging.Handler, logging.LogRecord] | None] = queue.SimpleQueue()
        self._taken = self._written = self._lost = 0  # lines
        self._replaced: list[tuple[logging.Logger, logging.Handler, _Put]] = []
        put: dict[logging.Handler, _Put] = {}
        for logger in _loggers():
            for handler in [each for each in logger.handlers if _writes(each)]:
                ours = put.setdefault(handler, _Put(handler, self))
                logger.removeHandler(handler)
                logger.addHandler(ours)
                self._replaced.append((logger, handler, ours))
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, handler: logging.Handler, record: logging.LogRecord) -> None:
        if self._taken - self._written < MOST_WAITING:
            self._taken += 1
            self._waiting.put((handler, record))
        else:
            self._lost += 1

    def drain(self, patience: float = PATIENCE) -> bool:
        """Wait until what is there has been written; whether it was."""
        end = time.monotonic() + patience
        while self._written < self._taken and time.monotonic() < end:
            time.sleep(0.01)
        return self._written >= self._taken

    def stop(self) -> bool:
        """Write what is there, and give the handlers back; False where nobody takes it."""
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
            while not self._waiting.empty():
                waiting.append(self._waiting.get())
            ended = waiting[-1] is None
            for handler, entries in groupby((entry for entry in waiting if entry), key=lambda entry: entry[0]):
                self._write(handler, [record for _, record in entries])
            self._written += sum(entry is not None for entry in waiting)

    def _write(self, handler: logging.Handler, records: list[logging.LogRecord]) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            message = f"{lost} lines of the log are missing here: nobody read it fast enough"
            records.append(logging.LogRecord(log.name, logging.WARNING, __file__, 0, message, None, None))
        assert isinstance(handler, logging.StreamHandler)
        lines = [handler.format(record) + handler.terminator for record in records if handler.filter(record)]
        with contextlib.suppress(OSError, ValueError):  # the pipe has ended: nobody is left to be told
            handler.stream.write("".join(lines))
            handler.stream.flush()


class _Put(logging.Handler):
    """Hands records on. Formatting is the thread's work too."""

    def __init__(self, behind: logging.Handler, background: Background) -> None:
        super().__init__(behind.level)
        self._behind, self._background = behind, background

    def handle(self, record: logging.LogRecord) -> bool:
        if record.exc_info and not record.exc_text:  # a traceback holds on to all that it came through
            record.exc_text = (self._behind.formatter or logging.Formatter()).formatException(record.exc_info)
            record.exc_info = None
        self._background.put(self._behind, record)
        return True

    def flush(self) -> None:
        self._background.drain()


def _loggers() -> list[logging.Logger]:
    known = logging.Logger.manager.loggerDict.values()
    return [logging.getLogger(), *(each for each in known if isinstance(each, logging.Logger))]


def _writes(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
