"""Answers, whatever server sends them: status, headers, body."""

import contextlib
import gzip
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import orjson
from werkzeug.http import parse_accept_header

from score import log
from score.architectures.meta_init import where
from score.codecs.base import Encoded
from score.errors import InternalError, OutOfMemory, ScoreError
from score.server.api import Said, plain

WORTH_COMPRESSING = 16_384  # bytes; below it, a packet or two are saved for a millisecond of work
_SENDABLE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Answer(NamedTuple):
    """A body as a whole, or in `pieces` as they come to be."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""
    pieces: AsyncGenerator[bytes, None] | None = None


def of_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str)
    return Answer(status, {"content-type": "application/json", **(headers or {})}, body)


def of_encoded(encoded: Encoded, accept_encoding: str) -> Answer:
    """A codec's answer; compressed where that pays and the client takes it."""
    body, headers = encoded.body, {"content-type": encoded.content_type, **encoded.headers}
    if len(body) >= WORTH_COMPRESSING and accept_encoding:
        accepted = parse_accept_header(accept_encoding)
        if coding := next((each for each in _COMPRESS if accepted[each] > 0), None):
            body = _COMPRESS[coding](body)
            headers |= {"content-encoding": coding, "vary": "Accept-Encoding"}
    return Answer(200, headers, body)


_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, compresslevel=1, mtime=0),
    "deflate": lambda body: zlib.compress(body, level=1),
}
"""In the order in which they are liked; the fastest level, since the network is seldom the slower part."""


def of_events(events: AsyncGenerator[Any, None]) -> Answer:
    """Server-sent events, one for each value as it comes, its data as JSON.

    Specification: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    async def pieces() -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(events) as opened:
            async for event in opened:
                yield b"data: " + orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n\n"

    return Answer(200, {"content-type": "text/event-stream", "cache-control": "no-store"}, pieces=pieces())


def allowed(methods: Sequence[str]) -> str:
    """The value of an Allow header."""
    return ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])


def of_error(
    error: ScoreError, request_id: str, said: Said = plain, methods: Sequence[str] = ("GET", "POST")
) -> Answer:
    """An error as JSON, as a protocol has it, with its status and the request's id."""
    headers = {} if error.retry_after is None else {"retry-after": str(max(1, ceil(error.retry_after)))}
    if error.status == 405:
        headers["allow"] = allowed(methods)
    return of_json(said(error, request_id), error.status, headers)


def of_failure(error: BaseException, request_id: str, said: Said = plain) -> Answer:
    """Any exception as an answer: ours as it is; anything else is a bug, which the log gets in full."""
    if isinstance(error, MemoryError):
        error = OutOfMemory("the memory does not suffice for this request")
    if isinstance(error, ScoreError):
        if error.status == 500:
            log.warning("%s %s", request_id, error.screen(), exc_info=error.__cause__)
        elif error.__cause__ is not None:  # the model's own: where it happened is enough, since anyone can ask for more
            log.warning("%s %s: %s, at %s", request_id, error.code, error.message[:500], where(error.__cause__))
        return of_error(error, request_id, said)
    log.error("%s a bug in the server", request_id, exc_info=error)
    return of_error(InternalError(f"{type(error).__name__} while answering the request"), request_id, said)


def sendable(text: str) -> bool:
    """Whether a text can be a header's value."""
    return _SENDABLE.fullmatch(text) is not None
