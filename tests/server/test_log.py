"""The log's own thread: in order, many at a time, never in anybody's way, and nothing lost at the end."""

import io
import logging
import logging.handlers
import threading
from collections.abc import Iterator

import pytest

from score.server import log as log_module
from score.server.log import Background

logger = logging.getLogger("test.background")


class Pipe(io.StringIO):
    """A stream that can be full."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = threading.Event()
        self.taken.set()

    def write(self, text: str) -> int:
        self.taken.wait(20)
        return super().write(text)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    found = Pipe()
    handler = logging.StreamHandler(found)
    monkeypatch.setattr(log_module, "_writes", lambda each: each is handler)  # pytest has its own standard error
    handler.setFormatter(logging.Formatter("%(levelname).1s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    found.taken.set()
    logger.handlers.clear()


def test_lines_come_in_order_and_the_handlers_are_given_back(pipe: Pipe) -> None:
    before = list(logger.handlers)
    background = Background()
    assert logger.handlers != before
    for number in range(1000):
        logger.info("line %d", number)
    assert background.stop()
    assert pipe.getvalue().splitlines() == [f"I line {number}" for number in range(1000)]
    assert logger.handlers == before


def test_nobody_waits_for_a_pipe_that_is_full(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MOST_WAITING", 50)
    background = Background()
    pipe.taken.clear()
    for number in range(500):
        logger.info("line %d", number)  # comes back at once
    pipe.taken.set()
    assert background.stop()
    lines = pipe.getvalue().splitlines()
    assert 50 <= len(lines) < 500
    assert any("lines of the log are missing here" in line for line in lines)


def test_a_traceback_is_written_and_holds_on_to_nothing(pipe: Pipe) -> None:
    background = Background()
    try:
        raise ValueError("inside")
    except ValueError:
        logger.exception("it failed")
    assert background.stop()
    assert "ValueError: inside" in pipe.getvalue()


def test_flushing_waits_for_what_is_there(pipe: Pipe) -> None:
    background = Background()
    logger.info("the last words")
    logger.handlers[0].flush()
    assert "the last words" in pipe.getvalue()
    background.stop()


class Shouting(logging.Formatter):
    """Does more to a line than write something before it."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).upper()


@pytest.mark.parametrize("form", ["%(asctime)s %(levelname).1s [%(process)d] %(name)s - %(message)s", "%(message)s"])
@pytest.mark.parametrize("kind", [logging.Formatter, Shouting])
def test_what_is_said_is_as_logging_writes_it(
    form: str, kind: type[logging.Formatter], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, seen = io.StringIO(), logging.handlers.BufferingHandler(1000)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(kind(form))
    monkeypatch.setattr(log_module, "_writes", lambda each: each is handler)
    monkeypatch.setattr(log_module, "log", logger)
    logger.handlers[:] = [handler, seen]
    logger.setLevel(logging.INFO)
    background = Background()
    try:
        for number in range(50):
            log_module.say(lambda at: ("said %d%%, %s", (at, 'a "b"')), number)
            logger.info("logged %d", number)
        log_module.say(lambda: ("100% as it is", ()))
        assert background.stop()
    finally:
        logger.handlers.clear()
    lines = stream.getvalue().splitlines()
    expected = [line for at in range(50) for line in (f'said {at}%, a "b"', f"logged {at}")] + ["100% as it is"]
    messages = [record.getMessage() for record in seen.buffer]
    assert sorted(messages) == sorted(expected)
    # Whichever way a line came, it stands where and as logging would have put it.
    records = sorted(seen.buffer, key=lambda record: record.created)
    assert lines == [handler.format(record) for record in records]


def test_what_is_said_is_bounded_too(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MOST_WAITING", 50)
    monkeypatch.setattr(log_module, "log", logger)
    background = Background()
    pipe.taken.clear()
    for number in range(500):
        log_module.say(lambda at: ("line %d", (at,)), number)
    pipe.taken.set()
    assert background.stop()
    lines = pipe.getvalue().splitlines()
    assert 50 <= len(lines) < 500
    assert any("lines of the log are missing here" in line for line in lines)
