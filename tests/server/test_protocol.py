"""HTTP/1.1 on a connection: what is malformed, too large, too slow or too much; on real sockets, with short limits."""

import contextlib
import gc
import json
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from score.server import protocol
from score.server.answer import Answer
from score.server.app import REFUSAL
from score.server.sending import AT_ONCE, respond

Serve = Callable[..., SimpleNamespace]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body that came, or with why it did not."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope.get(REFUSAL):
        body = scope[REFUSAL].code.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def exchanged(port: int, sent: bytes, until: bytes | None = None) -> bytes:
    """All that comes back for some bytes until the connection ends, or `until` was seen."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        found = b""
        while until is None or until not in found:
            piece = connection.recv(65_536)
            if not piece:
                break
            found += piece
        return found


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
MALFORMED = {
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nab",
    "length and chunks": POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks of 1.0": b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\nHost: x\n\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "another version": b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused_and_ends_the_connection(name: str, listening: Serve) -> None:
    found = exchanged(listening(echo).port, MALFORMED[name])
    assert found.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert found.count(b"\r\n\r\n") == 1  # nothing that follows is taken for a request
    assert b"connection: close" in found
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["code"] == "malformed_request"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 150 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000,
    ],
    ids=["a long path", "a long header", "many headers", "a header without end"],
)
def test_heads_are_bounded(head: bytes, listening: Serve) -> None:
    found = exchanged(listening(echo).port, head)
    assert found.startswith(b"HTTP/1.1 431 ")
    assert b"head_too_large" in found


def test_pipelined_requests_come_back_in_order(listening: Serve) -> None:
    requests = b"".join(POST + b"Content-Length: 2\r\n\r\n%02d" % number for number in range(20))
    last = POST + b"Content-Length: 4\r\nConnection: close\r\n\r\nlast"
    found = exchanged(listening(echo).port, requests + last)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in found.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"%02d" % number for number in range(20)] + [b"last"]


def test_garbage_behind_a_request_changes_nothing_about_its_answer(listening: Serve) -> None:
    found = exchanged(listening(echo).port, POST + b"Content-Length: 2\r\n\r\nhi\x00\x01\x02\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200 OK")
    assert b"hi" in found


def test_a_head_that_trickles_in_is_given_up(listening: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALLED", 0.3)
    found = exchanged(listening(echo).port, b"GET / HT")
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in found


def test_a_head_has_so_long_as_a_whole(listening: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WHOLE", 0.5)
    with socket.create_connection(("127.0.0.1", listening(echo).port), timeout=10) as connection:
        for letter in b"GET / HTTP/1.1\r\nHost: " + b"x" * 200:
            try:
                connection.sendall(bytes([letter]))
            except OSError:
                break
            time.sleep(0.02)
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_does_not_come(listening: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALLED", 0.3)
    found = exchanged(listening(echo).port, POST + b"Content-Length: 10\r\n\r\nhalf")
    assert found.endswith(b"request_timeout")  # which the application was told, and not half a body


def test_a_connection_without_a_request_goes(listening: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "KEEPALIVE", 0.2)
    with contextlib.suppress(ConnectionResetError):  # as good
        assert exchanged(listening(echo).port, b"") == b""


def test_a_client_that_does_not_take_its_answer_is_given_up(listening: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALLED", 0.3)

    async def large(scope: Any, receive: Any, send: Any) -> None:
        body = bytes(30_000_000)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"30000000")]})
        await send({"type": "http.response.body", "body": body})

    served = listening(large)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 10
        while served.gate.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_silent_connections_go_before_others(listening: Serve) -> None:
    served = listening(echo, most=3)

    def connected() -> socket.socket:
        return socket.create_connection(("127.0.0.1", served.port), timeout=10)

    used, silent = connected(), connected()
    used.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert used.recv(100).startswith(b"HTTP/1.1 200")
    more = [connected() for _ in range(2)]
    with pytest.raises(ConnectionResetError):
        if silent.recv(1) == b"":
            raise ConnectionResetError
    used.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert used.recv(100).startswith(b"HTTP/1.1 200")
    for connection in (used, silent, *more):
        connection.close()


def test_too_many_at_work_are_refused(listening: Serve) -> None:
    served = listening(echo, most=2)
    busy = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(2)]
    for connection in busy:
        connection.sendall(POST + b"Content-Length: 2\r\n\r\nh")
    time.sleep(0.3)
    found = exchanged(served.port, b"")
    assert found.startswith(b"HTTP/1.1 429 ")
    assert b"queue_full" in found
    for connection in busy:
        connection.sendall(b"i")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.close()


ANSWERS = {
    "a body": Answer(200, {"content-type": "text/plain"}, b"hello"),
    "no body": Answer(204, {"allow": "GET"}),
    "an error": Answer(503, {"retry-after": "1"}, b"{}"),
    "an empty body": Answer(200, {}, b""),
}


@pytest.mark.parametrize("request_head", ["GET / HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0"])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_sent_at_once_is_the_one_that_uvicorn_sends(name: str, request_head: str, listening: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        at_once = scope["extensions"][AT_ONCE] if scope["path"] == "/at-once" else None
        await respond(send, ANSWERS[name], dict(ANSWERS[name].headers), receive, at_once)

    port = listening(app).port
    head = f"{request_head}\r\nHost: x\r\nConnection: close\r\n\r\n"
    ours = exchanged(port, head.replace(" / ", " /at-once ").encode())
    theirs = exchanged(port, head.encode())
    assert sorted(_without_date(ours)) == sorted(_without_date(theirs))
    assert ours.partition(b"\r\n\r\n")[2] == theirs.partition(b"\r\n\r\n")[2]


def _without_date(answer: bytes) -> list[bytes]:
    return [line for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n") if not line.startswith(b"date:")]


def test_answers_sent_at_once_keep_the_connection_and_their_order(listening: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        found = Answer(200, {}, scope["path"].encode())
        await respond(send, found, {}, receive, scope["extensions"][AT_ONCE])

    requests = b"".join(b"GET /%02d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(20))
    found = exchanged(listening(app).port, requests + b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    bodies = [part.partition(b"\r\n\r\n")[2] for part in found.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"/%02d" % number for number in range(20)] + [b"/last"]
    assert found.count(b"connection: close") == 1


def test_an_answer_waits_for_a_client_that_does_not_read(listening: Serve) -> None:
    """What is sent at once does not pile up: it is held back as uvicorn does it."""
    large = Answer(200, {}, bytes(20_000_000))
    sent: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        way = scope["extensions"][AT_ONCE].send

        def noted(head: str, body: bytes) -> bool:
            sent.append(way(head, body))
            return sent[-1]

        await respond(send, large, {}, receive, SimpleNamespace(send=noted))  # type: ignore[arg-type]

    port = listening(app).port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
        time.sleep(0.5)
        found = 0
        while found < 4 * len(large.body):
            piece = connection.recv(1 << 20)
            assert piece, "the server has ended the connection"
            found += len(piece)
    assert len(sent) == 4
    assert sent[:2] == [True, False]


def test_a_request_that_was_answered_leaves_nothing_to_the_garbage_collector(listening: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, Answer(200, {}, b"ok"), {}, receive, scope["extensions"][AT_ONCE])

    port = listening(app).port
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, RequestResponseCycle) for each in gc.get_objects())  # of other tests' servers
        exchanged(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50 + b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        left = sum(isinstance(each, RequestResponseCycle) for each in gc.get_objects()) - before
    finally:
        gc.enable()
    assert left <= 2  # a connection keeps its last
