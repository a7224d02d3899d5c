"""Answers: bodies, headers, what is compressed, and how exceptions become JSON."""

import gzip
import json
import logging

import pytest

from score.codecs.base import Encoded
from score.errors import InternalError, MethodNotAllowed, ModelRejected, QueueFull, WrongShape
from score.server import answer


def test_json() -> None:
    found = answer.of_json({"a": 1, 2: "b"}, 201, {"x": "y"})
    assert (found.status, json.loads(found.body)) == (201, {"a": 1, "2": "b"})
    assert found.headers == {"content-type": "application/json", "x": "y"}


@pytest.mark.parametrize(
    ("size", "accepts", "compressed"),
    [(20_000, "gzip", True), (20_000, "gzip;q=0", False), (20_000, "br", False), (100, "gzip", False)],
)
def test_what_is_compressed(size: int, accepts: str, compressed: bool) -> None:
    found = answer.of_encoded(Encoded(b"1" * size, "application/json", {"own": "1"}), accepts)
    assert ("content-encoding" in found.headers) == compressed
    assert (gzip.decompress(found.body) if compressed else found.body) == b"1" * size
    assert found.headers["own"] == "1"


def test_errors_say_when_to_come_back_and_what_is_allowed() -> None:
    found = answer.of_error(QueueFull("full", retry_after=0.2), "r1")
    assert (found.status, found.headers["retry-after"]) == (429, "1")
    assert json.loads(found.body)["error"]["request_id"] == "r1"
    assert answer.of_error(MethodNotAllowed("no"), "r").headers["allow"] == "GET, POST, HEAD, OPTIONS"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (WrongShape("no"), 400, "wrong_shape"),
        (MemoryError(), 503, "out_of_memory"),
        (KeyError("secret"), 500, "internal_error"),
        (InternalError("a bug"), 500, "internal_error"),
    ],
)
def test_any_exception_is_an_answer(error: Exception, status: int, code: str) -> None:
    found = answer.of_failure(error, "r1")
    assert (found.status, json.loads(found.body)["error"]["code"]) == (status, code)
    assert b"secret" not in found.body  # what a bug holds is not a client's


def test_where_a_model_failed_is_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("inside")
    except ValueError as inside:
        error = ModelRejected("the model raised ValueError")
        error.__cause__ = inside
    with caplog.at_level(logging.WARNING, "azmlinfsrv.score"):
        answer.of_failure(error, "r1")
    assert "test_answer.py" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("text", "fine"), [("a b\t~", True), ("é", True), ("a\r\nb", False), ("a\0", False), ("я", False)]
)
def test_what_may_be_a_header(text: str, fine: bool) -> None:
    assert answer.sendable(text) == fine
