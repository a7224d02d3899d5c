"""The ASGI application: predictions here, everything else as azmlinfsrv's own Flask application has it.

A small request is read, decoded and validated on the event loop, waits for the model without a thread, and is encoded
on the loop. What takes longer (large bodies, pictures, texts, large answers) is done by threads, and its decoding in a
process of its own, so that liveness and small requests never wait for it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from a2wsgi import WSGIMiddleware
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from score.codecs import registry as codecs
from score.codecs.base import Body
from score.errors import BodyTooLarge, ClientGone, Draining, MethodNotAllowed, ScoreError
from score.inference import pipeline
from score.inference.batching.ticket import Ticket
from score.inference.pipeline import Prepared
from score.inference.predictor import Predictor
from score.server import answer, api_page, azmlinfsrv, card
from score.server.answer import Answer
from score.server.api import SCORE, Api
from score.server.body import Intake, Share, nbytes
from score.server.decoder import Decoder
from score.server.heads import TEXTS
from score.server.metrics import RequestRecord
from score.server.models import Models
from score.server.prediction import Prediction, asked_for, named_in, top_k
from score.server.quick import MOST_TEXT, SMALL, Quick, letters, quick_codec
from score.server.routes.table import Asked, Page, Row
from score.server.sending import AT_ONCE, AtOnce, gone, respond
from score.server.service import Head, Service
from score.server.waiting import Waiting

ELSEWHERE = 4  # threads for what is large
FLASK_THREADS = 64
TASK_THREADS = 64  # requests whose items are prepared, or wait for the model, at a time
LOADING = 64  # requests that wait for a model to be loaded at a time
MOST_ASKED = 64 << 10  # bytes of a body that is no prediction

Made = TypeVar("Made")
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]
REFUSAL = "loadstone.refusal"  # in the scope of a request whose body turned out to be malformed, or too slow: the error


class Application:
    """`draining` is set once the server has been told to stop: what begins after that is refused."""

    def __init__(self, models: Models, rows: Iterable[Row], behind: Any, decoder: Decoder, *, hooked: bool) -> None:
        self.draining = False
        self._models, self._decoder = models, decoder
        self._behind: Any = WSGIMiddleware(behind, workers=FLASK_THREADS)
        self._hooked = hooked
        self._waiting = Waiting()
        self._tasks = ThreadPoolExecutor(TASK_THREADS, thread_name_prefix="answer")
        self._elsewhere = ThreadPoolExecutor(ELSEWHERE, thread_name_prefix="decode")
        self._loads = ThreadPoolExecutor(LOADING, thread_name_prefix="load")
        self.quick = None if hooked else Quick.of(models, self._waiting, self._elsewhere)
        endpoints: list[tuple[str, Endpoint]] = [
            ("/score", self._score),
            ("/score/{model}", self._score),
            ("/", self._root),
            (api_page.PATH, self._api),
            (api_page.PATH + "/{name}", self._api),
            *((row.path, partial(self._row, row)) for row in rows),
        ]
        # Starlette tries one regular expression after the other; most requests are for a path that has none.
        self._exact = {path: endpoint for path, endpoint in endpoints if "{" not in path}
        routes = [Route(path, _App(endpoint)) for path, endpoint in endpoints]
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
        headers = _headers(scope)
        if self._hooked or azmlinfsrv.wants(headers):
            await self._behind(scope, receive, send)
            return
        head = Head.of(scope["method"], scope["query_string"], headers)
        name = scope["path_params"]["model"] if "path_params" in scope else ""
        found = None if head.method == "POST" else await self._card(head, name)
        if found is None:
            found = await self._predict(head, SCORE, name, scope, receive)
        await self._send(found, head, started, scope, receive, send)

    async def _card(self, head: Head, name: str) -> Answer:
        if self._models.only is not None and not name:
            return card.answer_to(self._models, head, name)
        return await asyncio.get_running_loop().run_in_executor(self._loads, card.answer_to, self._models, head, name)

    async def _row(self, row: Row, scope: Scope, receive: Receive, send: Send) -> None:
        """A route of one of the tables."""
        started = time.perf_counter()
        headers = _headers(scope)
        head, path = Head.of(scope["method"], scope["query_string"], headers), scope.get("path_params", {})
        methods = row.methods
        method = "GET" if head.method == "HEAD" else head.method
        if method == "OPTIONS":
            found = Answer(200, {"allow": answer.allowed(methods)})
        elif method not in methods:
            hint = f"It takes {answer.allowed(methods)}."
            wrong = MethodNotAllowed(f"{scope['path']} does not take {head.method}", hint=hint)
            found = answer.of_error(wrong, head.request_id, row.api.said, methods)
        elif isinstance(row, Page):
            found = await self._page(row, head, path, scope, receive)
        else:
            found = await self._predict(head, row.api, path.get("model", ""), scope, receive, path.get("version"))
        await self._send(found, head, started, scope, receive, send)

    async def _page(self, row: Page, head: Head, path: Mapping[str, str], scope: Scope, receive: Receive) -> Answer:
        try:
            intake = Intake(head.headers, self._models.settings, Share())
            try:
                if not _taken(intake, scope):
                    await _read(intake, scope, receive)
                if intake.size > MOST_ASKED:
                    raise BodyTooLarge(f"{scope['path']} takes at most {MOST_ASKED:,} bytes")
                asked = Asked(head, path, intake.body().data if intake.size else b"", self._models)
                asked.document()  # a body that is none is said to be, whatever the route does with it
            finally:
                intake.share.release()
            if row.at_once:
                return row.answer(asked)
            return await asyncio.get_running_loop().run_in_executor(self._loads, row.answer, asked)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer that it can read
            return answer.of_failure(error, head.request_id, row.api.said)

    def _send(
        self, found: Answer, head: Head, started: float, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        sent = azmlinfsrv.stamp(found, head, time.perf_counter() - started)
        return respond(send, found, sent, receive, scope.get("extensions", {}).get(AT_ONCE))

    async def _predict(
        self, head: Head, api: Api, name: str, scope: Scope, receive: Receive, version: str | None = None
    ) -> Answer:
        with Prediction(self._models, head, api) as prediction:
            record = prediction.record
            if self.draining:
                raise Draining("the server has been told to stop, and takes no new requests")
            intake = Intake(head.headers, self._models.settings, prediction.share)
            if not _taken(intake, scope):
                await _read(intake, scope, receive)
            body = None if intake.compressed or intake.size > SMALL else api.read(intake.body(api.codec))
            name = name or asked_for(head) or (named_in(body) if api.names_model and body is not None else "")
            unread = not name and (self._models.several or (api.names_model and body is None))
            service = None if unread else self._models.at_once(name)
            if service is None:
                body, service = await self._choose(name, body, intake, api, prediction)
            prediction.service = service
            if version is not None:
                self._models.state(service.name, version)
            asked = top_k(head.query)
            if body is None or (codec := quick_codec(service.predictor, body)) is None:
                late = (service.predictor, intake, body, asked, api, record)
                prepared = await self._somewhere_else(self._prepare_large, *late)
            else:
                record.codec = codec.NAME
                decoded = codec.decode(body)
                given = (service.predictor, codec, decoded, asked)
                long = letters(decoded) > MOST_TEXT
                prepared = await self._somewhere_else(pipeline.prepare, *given) if long else pipeline.prepare(*given)
            record.inputs = prepared.inputs
            record.answered(*await self._run(service.predictor, prepared, receive))
            if nbytes(record.outputs) > SMALL or service.predictor.hooks.postprocess is not None:
                prediction.answer = await self._somewhere_else(service.encode, prepared, record.outputs, head, api)
            else:
                prediction.answer = service.encode(prepared, record.outputs, head, api)
        assert prediction.answer is not None
        return prediction.answer

    async def _choose(
        self, name: str, body: Body | None, intake: Intake, api: Api, prediction: Prediction
    ) -> tuple[Body, Service]:
        """One of several models, as the body may name it; loaded where it has to be, which takes its time."""

        def work() -> tuple[Body, Service]:
            read = api.read(intake.body(api.codec)) if body is None else body
            prediction.service = self._models.take(name or named_in(read))
            return read, prediction.service

        return await asyncio.get_running_loop().run_in_executor(self._loads, work)

    async def _somewhere_else(self, function: Callable[..., Made], *given: Any) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._elsewhere, function, *given)

    def _prepare_large(
        self, predictor: Predictor, intake: Intake, body: Body | None, asked: Any, api: Api, record: RequestRecord
    ) -> Prepared:
        """Of a body that takes its time: decompressed here, and decoded in another process; or by the model's own code,
        which may take any."""
        body = api.read(intake.body(api.codec)) if body is None else body
        if predictor.hooks.preprocess is not None:
            codec = codecs.choose(body)
            record.codec = codec.NAME
            return pipeline.prepare(predictor, codec, pipeline.decode(predictor, codec, body), asked)
        codec, decoded = self._decoder.decode(body)
        record.codec = codec.NAME
        intake.hold(max(0, nbytes(decoded.arrays) - len(body.data)))
        return pipeline.prepare(predictor, codec, decoded, asked)

    async def _run(self, predictor: Predictor, prepared: Prepared, receive: Receive) -> tuple[Any, Any]:
        """Have the model answer, and wait for it; a request whose client leaves before it begins is dropped."""
        loop = self._waiting.loop
        if prepared.items is not None:
            return await loop.run_in_executor(self._tasks, pipeline.run, predictor, prepared)
        found: asyncio.Future[Ticket] = loop.create_future()
        self._waiting.submit(predictor.batcher, prepared.inputs, gone(receive), partial(_resolve, found))
        return (await found).answer()


def _headers(scope: Scope) -> Mapping[str, str]:
    """A request's headers, names in lower case; where one comes twice, the last."""
    known: Mapping[str, str] | None = scope.get(TEXTS)
    if known is not None:
        return known
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


class _App:
    """A coroutine as Starlette tells an ASGI application from a function of its own kind."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)


def _taken(intake: Intake, scope: Scope) -> bool:
    """Take in the whole body, where all of it is there already. Raises what `Intake.add` does."""
    at_once: AtOnce | None = scope.get("extensions", {}).get(AT_ONCE)
    whole = at_once.body() if at_once is not None else None
    if whole is None:
        return False
    intake.add(whole)
    return True


async def _read(intake: Intake, scope: Scope, receive: Receive) -> None:
    """Take in the body as it comes. Raises what `Intake.add` does, `ClientGone`, or what is wrong with its framing."""
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


def _resolve(found: asyncio.Future[Ticket], ticket: Ticket) -> None:
    if not found.done():  # its request may have been cancelled
        found.set_result(ticket)
