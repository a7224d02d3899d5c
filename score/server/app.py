"""The ASGI application: predictions here, everything else as azmlinfsrv's own Flask application has it.

A small request is read, decoded and validated on the event loop, waits for the model without a thread, and is encoded
on the loop. What takes longer (large bodies, pictures, texts, large answers) is done by threads, and its decoding in a
process of its own, so that liveness and small requests never wait for it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np
from a2wsgi import WSGIMiddleware
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from score.codecs import registry as codecs
from score.codecs.base import Body, Codec, Decoded
from score.errors import ClientGone, Draining, ScoreError
from score.inference import pipeline
from score.inference.batching.queue import Ticket
from score.inference.pipeline import Prepared
from score.server import api_page, azmlinfsrv
from score.server.answer import Answer
from score.server.body import Intake, nbytes
from score.server.decoder import Decoder
from score.server.metrics import RequestRecord
from score.server.service import Head, Service, top_k

SMALL = 256 << 10  # bytes that are decoded, or encoded, on the event loop: a few milliseconds at most
MOST_TEXT = 4_000  # characters that are tokenised there
ELSEWHERE = 4  # threads for what is large
FLASK_THREADS = 64
TASK_THREADS = 64  # requests whose items are prepared, or wait for the model, at a time

Made = TypeVar("Made")
AT_ONCE = "loadstone.at_once"  # among the extensions in the scope: the server's way to send a whole answer at once
_STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
REFUSAL = "loadstone.refusal"  # in the scope of a request whose body turned out to be malformed, or too slow: the error


class Application:
    """`draining` is set once the server has been told to stop: what begins after that is refused."""

    def __init__(self, service: Service, behind: Any, decoder: Decoder, *, hooked: bool) -> None:
        self.draining = False
        self._service, self._decoder = service, decoder
        self._behind: Any = WSGIMiddleware(behind, workers=FLASK_THREADS)
        self._hooked = hooked
        self._waking = False
        self._tasks = ThreadPoolExecutor(TASK_THREADS, thread_name_prefix="answer")
        self._elsewhere = ThreadPoolExecutor(ELSEWHERE, thread_name_prefix="decode")
        routes = [
            Route("/score", _Endpoint(self._score)),
            Route("/", _Endpoint(self._root)),
            Route(api_page.PATH, _Endpoint(self._api)),
            Route(api_page.PATH + "/{name}", _Endpoint(self._api)),
        ]
        # Starlette tries one regular expression after the other; most requests are for a path that has none.
        self._exact: dict[str, Any] = {route.path: route.app for route in routes if not route.param_convertors}
        self._router = Router(routes, redirect_slashes=False, default=self._behind)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._exact.get(scope["path"], self._router)(scope, receive, send)

    async def _root(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A browser is sent to the page; a probe is answered by azmlinfsrv, that it is healthy."""
        accepts = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        if b"text/html" in accepts and scope["method"] in ("GET", "HEAD"):
            await respond(send, Answer(302), {"location": "/score", "vary": "Accept"}, receive)
        else:
            await self._behind(scope, receive, send)

    async def _api(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The interactive description, and the files that it loads."""
        found = api_page.page(scope.get("path_params", {}).get("name", ""))
        if found is None or scope["method"] not in ("GET", "HEAD"):
            await self._behind(scope, receive, send)
        else:
            await respond(send, found, dict(found.headers), receive)

    async def _score(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._hooked or azmlinfsrv.wants(headers):
            await self._behind(scope, receive, send)
            return
        head = Head.of(scope["method"], scope["query_string"], headers)
        found = self._service.without_body(head)
        if found is None:
            found = await self._predict(head, scope, receive)
        sent = azmlinfsrv.stamp(found, head, time.perf_counter() - started)
        await respond(send, found, sent, receive, scope.get("extensions", {}).get(AT_ONCE))

    async def _predict(self, head: Head, scope: Scope, receive: Receive) -> Answer:
        with self._service.predicting(head) as prediction:
            record = prediction.record
            if self.draining:
                raise Draining("the server has been told to stop, and takes no new requests")
            intake = prediction.intake = Intake(head.headers, self._service.predictor.settings)
            await _read(intake, scope, receive)
            prepared = await self._prepare(intake, head, record)
            record.inputs = prepared.inputs
            record.answered(*await self._run(prepared, receive))
            prediction.answer = await self._encode(head, prepared, record)
        assert prediction.answer is not None
        return prediction.answer

    async def _prepare(self, intake: Intake, head: Head, record: RequestRecord) -> Prepared:
        predictor, asked = self._service.predictor, top_k(head.query)
        if intake.compressed or intake.size > SMALL:
            return await self._somewhere_else(self._prepare_large, intake, asked, record)
        body = intake.body()
        codec = codecs.choose(body)
        if predictor.hooks.preprocess is not None:
            record.codec = codec.NAME
            return await self._somewhere_else(self._prepare_hooked, codec, body, asked)
        if (codec.effort(body) or 0) > SMALL:
            return await self._somewhere_else(self._decode_large, intake, body, asked, record)
        record.codec = codec.NAME
        decoded = codec.decode(body)
        if _letters(decoded) > MOST_TEXT:
            return await self._somewhere_else(pipeline.prepare, predictor, codec, decoded, asked)
        return pipeline.prepare(predictor, codec, decoded, asked)

    async def _somewhere_else(self, function: Callable[..., Made], *given: Any) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._elsewhere, function, *given)

    def _prepare_large(self, intake: Intake, asked: Any, record: RequestRecord) -> Prepared:
        return self._decode_large(intake, intake.body(), asked, record)

    def _prepare_hooked(self, codec: Codec, body: Body, asked: Any) -> Prepared:
        """By the model's own code, which may take any time."""
        predictor = self._service.predictor
        return pipeline.prepare(predictor, codec, pipeline.decode(predictor, codec, body), asked)

    def _decode_large(self, intake: Intake, body: Body, asked: Any, record: RequestRecord) -> Prepared:
        if self._service.predictor.hooks.preprocess is not None:
            codec = codecs.choose(body)
            record.codec = codec.NAME
            return self._prepare_hooked(codec, body, asked)
        codec, decoded = self._decoder.decode(body)
        record.codec = codec.NAME
        intake.hold(max(0, nbytes(decoded.arrays) - len(body.data)))
        return pipeline.prepare(self._service.predictor, codec, decoded, asked)

    async def _run(self, prepared: Prepared, receive: Receive) -> tuple[Any, Any]:
        """Have the model answer, and wait for it; a request whose client leaves before it begins is dropped."""
        loop = asyncio.get_running_loop()
        if prepared.items is not None:
            return await loop.run_in_executor(self._tasks, pipeline.run, self._service.predictor, prepared)
        batcher = self._service.predictor.batcher
        ticket = batcher.enqueue(prepared.inputs, self._deliver, _gone(receive), loop.create_future(), wake=False)
        if not self._waking:  # once for all that are read in this turn of the loop
            self._waking = True
            loop.call_soon(self._wake)
        await ticket.waiter
        return ticket.answer()

    def _wake(self) -> None:
        self._waking = False
        self._service.predictor.batcher.wake()

    def _deliver(self, tickets: Sequence[Ticket]) -> None:
        """Resume all that one pass has answered: one call to the loop, from the model's thread."""
        tickets[0].waiter.get_loop().call_soon_threadsafe(_resolve, tickets)

    async def _encode(self, head: Head, prepared: Prepared, record: RequestRecord) -> Answer:
        if nbytes(record.outputs) > SMALL or self._service.predictor.hooks.postprocess is not None:
            return await self._somewhere_else(self._service.encode, head, prepared, record)
        return self._service.encode(head, prepared, record)


class _Endpoint:
    """A coroutine as Starlette takes an ASGI application."""

    def __init__(self, run: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._run(scope, receive, send)


async def _read(intake: Intake, scope: Scope, receive: Receive) -> None:
    """Take in the whole body. Raises what `Intake.add` does, `ClientGone`, or what is wrong with its framing."""
    more = True
    while more:
        message = await receive()
        refusal: ScoreError | None = scope.get(REFUSAL)
        if refusal is not None:
            raise refusal
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed the connection before its request had arrived")
        if piece := message.get("body", b""):
            intake.add(piece)
        more = message.get("more_body", False)


def _resolve(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        if not ticket.waiter.done():  # its request may have been cancelled
            ticket.waiter.set_result(None)


def head_of(found: Answer, headers: Mapping[str, str]) -> str:
    """The status and headers of a whole answer as HTTP has them, each line with its end."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    length = "" if found.status == 204 else f"content-length: {len(found.body)}\r\n"
    return f"{_STATUS[found.status]}\r\n{lines}{length}"


async def respond(
    send: Send, found: Answer, headers: dict[str, str], receive: Receive, at_once: Mapping[str, Any] | None = None
) -> None:
    """Send an answer: as a whole, by the server's own way where it has one, or piece by piece as they come, each as
    soon as it is there. What makes the pieces is closed once the client has left."""
    if found.pieces is None and at_once is not None and at_once["send"](head_of(found, headers), found.body):
        return
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    if found.pieces is None:
        if found.status != 204:
            raw.append((b"content-length", str(len(found.body)).encode()))
        await send({"type": "http.response.start", "status": found.status, "headers": raw})
        await send({"type": "http.response.body", "body": found.body})
        return
    await send({"type": "http.response.start", "status": found.status, "headers": raw})
    gone = _gone(receive)
    async with contextlib.aclosing(found.pieces) as pieces:
        async for piece in pieces:
            if gone():
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _gone(receive: Receive) -> Callable[[], bool]:
    """Whether the client has left: uvicorn's cycle knows, without being waited for."""
    cycle = getattr(receive, "__self__", None)
    return lambda: bool(getattr(cycle, "disconnected", False))


def _letters(decoded: Decoded) -> int:
    """Characters of texts; 0 for numbers."""
    if decoded.items is not None:
        return sum(len(item) for item in decoded.items.values if isinstance(item, str))
    arrays = decoded.arrays
    if isinstance(arrays, np.ndarray) and arrays.dtype.kind == "U":
        return int(arrays.size * arrays.dtype.itemsize // 4)
    return 0
