"""Heads that came before: whatever a client sends, and in whatever pieces, the answers are those without them."""

import asyncio
import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from uvicorn.config import Config
from uvicorn.server import ServerState

from score.server import heads
from score.server.gate import Gate
from score.server.heads import TEXTS, ParsedHeads
from score.server.protocol import HttpProtocol

POST = b"POST /score?a=b%20c HTTP/1.1\r\nHost: x\r\n"
REQUESTS = (
    POST + b"Content-Length: 2\r\n\r\nhi",
    POST + b"Content-Length: 2\r\n\r\nho",
    POST + b"Content-Length: 9\r\nX-A: 1\r\nx-a: 2\r\n\r\n\r\n\r\nabcde",
    POST + b"Content-Length: 0\r\n\r\n",
    POST + b"Connection: keep-alive\r\nContent-Length: 1\r\n\r\na",
    POST + b"Connection: close\r\nContent-Length: 1\r\n\r\na",
    POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\na",
    POST + b"Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\na",
    POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    POST + b"Content-Length: 2\r\n\r\nhi\r\n",
    b"\r\n\r\n" + POST + b"Content-Length: 2\r\n\r\nhi",
    b"POST /score HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    POST + b"Content-Length: 3\r\n\r\nhi",
    POST + b"Content-Length: 1\r\n\r\nhi",
    b"\x00\x01garbage\r\n\r\n",
)


class Unlearned(ParsedHeads):
    def learn(self, data: bytes, scope: Any) -> None:
        return


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += b"" if self.closed else bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        return

    resume_reading = pause_reading


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """Answers with all that it was told of the request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    told = {name: value for name, value in scope.items() if name not in ("extensions", TEXTS, "state")}
    found = json.dumps(told | {"body": body}, default=repr, sort_keys=True).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(found))]})
    await send({"type": "http.response.body", "body": found})


async def answers(pieces: list[bytes], known: ParsedHeads) -> bytes:
    config = Config(tell, interface="asgi3", log_config=None)
    config.load()
    state = ServerState()
    state.gate = Gate(10)  # type: ignore[attr-defined]
    state.gate.heads = known  # type: ignore[attr-defined]
    connection, wire = HttpProtocol(config=config, server_state=state, app_state={}), Wire()
    connection.connection_made(wire)
    for piece in pieces:
        if wire.closed:
            break
        connection.data_received(piece)
        for _ in range(8):
            await asyncio.sleep(0)
    connection.connection_lost(None)
    return re.sub(rb"[0-9a-f]{8}-[0-9a-f-]{27}", b"(an id)", wire.written)


@given(some.lists(some.sampled_from(REQUESTS), min_size=1, max_size=8), some.lists(some.integers(1, 400), max_size=3))
def test_what_was_parsed_before_changes_no_answer(requests: list[bytes], cuts: list[int]) -> None:
    # Each twice before, so that it is known where it can be; then some of them run together, cut anywhere.
    known = ParsedHeads()
    for request in REQUESTS * 2:
        asyncio.run(answers([request], known))
    joined = b"".join(requests)
    ends = sorted({0, len(joined), *(min(cut, len(joined)) for cut in cuts)})
    for pieces in (requests, [joined[one:other] for one, other in itertools.pairwise(ends)]):
        assert asyncio.run(answers(pieces, known)) == asyncio.run(answers(pieces, Unlearned()))


def test_the_second_time_a_head_is_kept_and_the_third_it_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    known, parsed = ParsedHeads(), []
    begun = HttpProtocol.on_message_begin
    monkeypatch.setattr(HttpProtocol, "on_message_begin", lambda self: parsed.append(1) or begun(self))
    found = asyncio.run(answers([REQUESTS[0], REQUESTS[1], REQUESTS[0], REQUESTS[1]], known))
    assert len(parsed) == 2
    bodies = [json.loads(part.partition(b"\r\n\r\n")[2])["body"] for part in found.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == ["b'hi'", "b'ho'"] * 2


@pytest.mark.parametrize("request_", [REQUESTS[at] for at in (5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16)])
def test_what_is_not_a_plain_whole_request_is_never_kept(request_: bytes) -> None:
    known = ParsedHeads()
    for _ in range(3):
        asyncio.run(answers([request_], known))
    assert known.find(request_) is None


def test_no_more_are_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_MOST", 4)
    known = ParsedHeads()
    many = [POST + b"X-Id: %d\r\nContent-Length: 1\r\n\r\na" % number for number in range(9)]
    for request in many:
        asyncio.run(answers([request, request], known))
    assert [known.find(request) is not None for request in many] == [False] * 5 + [True] * 4
    for request in (POST + b"X-Id: a%d\r\nContent-Length: 1\r\n\r\na" % number for number in range(9)):
        asyncio.run(answers([request], known))  # one of a kind: they push nothing out
    assert known.find(many[-1]) is not None
