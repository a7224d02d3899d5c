"""Between Flask and the rest: bodies in, answers and errors out."""

import difflib
import gzip
import logging
import sys
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import orjson
from flask import Request, Response, g
from flask import request as current_request

from score.architectures.meta_init import where
from score.codecs.oip_v2 import LENGTH_HEADER
from score.codecs.registry import PARAMETERS, Body, Decoded, Encoded, refuse_unknown
from score.errors import (
    BodyTooLarge,
    Draining,
    InternalError,
    InvalidGzip,
    InvalidTensor,
    InvalidTopK,
    MethodNotAllowed,
    NotFound,
    OutOfMemory,
    QueueFull,
    ScoreError,
    UnsupportedMediaType,
)
from score.inference.predictor import Predictor
from score.server import openapi, shortcut
from score.server.metrics import RequestRecord
from score.server.worker import DRAINING
from score.settings import Settings

log = logging.getLogger("azmlinfsrv.score")

METHODS = "GET, HEAD, POST, OPTIONS"
PIECE = 1 << 16  # bytes read at a time, so that what is held is known while it grows
WORTH_COMPRESSING = 16_384  # bytes; below it, a packet or two are saved for a millisecond of work


class _Held:
    """Bytes of request bodies in memory, in all requests."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> int:
        with self._lock:
            self.bytes += size
            return self.bytes


held = _Held()


PAGE = Path(__file__).with_name("page.html").read_text()
# The page needs nothing but itself and this server, and nothing that it shows can make it fetch or run more.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}


@contextmanager
def body_of(request: Request, settings: Settings) -> Iterator[Body]:
    """The request's body, decompressed, whatever its Content-Type says.

    Raises `BodyTooLarge` without reading more than the limit, `QueueFull` where all requests together hold too much,
    `InvalidGzip`, `UnsupportedMediaType` or `InvalidTensor`.
    """
    limit = int(settings.max_body_mb * 1_000_000)
    too_large = f"the body is larger than {settings.max_body_mb:g} MB"
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(too_large)
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise UnsupportedMediaType(f"the body's Content-Encoding is {encoding}", hint="Send it as it is, or as gzip.")
    size = 0
    try:
        pieces: list[bytes] = []
        unzip = _Gunzip() if "gzip" in encoding else None
        # Not request.data, which Flask leaves empty for a form: `curl -d` sends one unless told otherwise.
        while piece := request.stream.read(PIECE):
            for part in unzip.parts(piece) if unzip else (piece,):
                size += len(part)
                held.add(len(part))  # before anything is raised: all of it is given back
                if size > limit:
                    raise BodyTooLarge(too_large)
                if held.bytes > settings.max_held_mb * 1e6:
                    raise QueueFull(f"requests of {held.bytes / 1e6:.0f} MB are being answered already")
                pieces.append(part)
        if unzip:
            unzip.end()
        yield Body(b"".join(pieces), str(request.mimetype or ""), _json_length(request, size), limit)
    finally:
        held.add(-size)


class _Gunzip:
    """Decompresses piece by piece, into parts of bounded size: a bomb is seen before it is large."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(31)

    def parts(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._stream.eof:  # gzip files may follow each other
                self._stream = zlib.decompressobj(31)
            try:
                part = self._stream.decompress(piece, PIECE)
            except zlib.error as error:
                raise InvalidGzip(f"the body is not gzip ({error})") from None
            piece = self._stream.unused_data or self._stream.unconsumed_tail
            yield part

    def end(self) -> None:
        if not self._stream.eof:
            raise InvalidGzip("the compressed body ends before its end")


def _json_length(request: Request, size: int) -> int | None:
    said = request.headers.get(LENGTH_HEADER)
    if said is None:
        return None
    if not said.isascii() or not said.isdigit() or len(said) > 12 or int(said) > size:
        raise InvalidTensor(f"{LENGTH_HEADER} is {said[:40]!r}, and the body has {size} bytes")
    return int(said)


def top_k(request: Request, decoded: Decoded) -> int | None:
    """How many classes of each row are asked for, in the body or after the question mark. Raises `InvalidTopK`."""
    said = decoded.top_k
    if request.environ.get("QUERY_STRING"):
        near = [name for name in request.args if name != "top_k" and difflib.get_close_matches(name, PARAMETERS, n=1)]
        refuse_unknown(near)
        said = request.args.get("top_k") if said is None else said
    if said is None:
        return None
    if isinstance(said, str) and said.isascii() and said.isdigit():
        said = int(said[:9])
    if type(said) is not int or said < 1:
        raise InvalidTopK(f"top_k is {said!r:.40}, and has to be a number above zero")
    return said


def answer(encoded: Encoded, request: Request) -> Response:
    body, headers = encoded.body, dict(encoded.headers)
    if len(body) >= WORTH_COMPRESSING and request.accept_encodings.quality("gzip") > 0:
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(body, 200, headers, content_type=encoded.content_type)


def json_answer(value: Any) -> Response:
    return Response(
        orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str), 200, content_type="application/json"
    )


def error_answer(error: ScoreError, request: Request) -> Response:
    """An error as JSON, with its status and the request's id."""
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, ceil(error.retry_after)))}
    if error.status == 405:
        headers["Allow"] = METHODS
    body = orjson.dumps({"error": error.as_dict() | {"request_id": request_id(request)}})
    return Response(body, error.status, headers, content_type="application/json")


def failure(error: Exception, request: Request) -> Response:
    """Any exception as an answer: ours as it is; anything else is a bug, which the log gets in full."""
    if isinstance(error, MemoryError):
        error = OutOfMemory("the memory does not suffice for this request")
    if isinstance(error, ScoreError):
        if error.status == 500:
            log.warning("%s %s", request_id(request), error.screen(), exc_info=error.__cause__)
        elif error.__cause__ is not None:  # the model's own: where it happened is enough, since anyone can ask for more
            log.warning(
                "%s %s: %s, at %s", request_id(request), error.code, error.message[:500], where(error.__cause__)
            )
        return error_answer(error, request)
    log.error("%s a bug in the server", request_id(request), exc_info=error)
    return error_answer(InternalError(f"{type(error).__name__} while answering the request"), request)


def request_id(request: Request) -> str:
    """The id that the request came with, or that it was given; azmlinfsrv sends it back as x-request-id."""
    return str(request.headers.get("X-Request-ID") or (getattr(g, "request_id", "") if g else "") or uuid.uuid4())


def exchanged(request: Request, served: Predictor, answer: Callable[[Request, RequestRecord], Response]) -> Response:
    """Answer whatever is sent to `/score`, and take note of it."""
    if request.method in ("GET", "HEAD"):
        if request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html":
            return Response(PAGE, 200, _PAGE_HEADERS, content_type="text/html; charset=utf-8")
        try:
            return json_answer(served.card())
        except Exception as error:  # noqa: BLE001  # as below
            return failure(error, request)
    if request.method == "OPTIONS":
        return Response(status=204, headers={"Allow": METHODS})
    exchange = RequestRecord(request_id(request), trace=request.headers)
    try:
        if request.method != "POST":
            raise MethodNotAllowed(f"/score does not take {request.method}")
        if request.environ.get(DRAINING):
            raise Draining("the server has been told to stop, and takes no new requests")
        response = answer(request, exchange)
    except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer it can read
        response = failure(error, request)
        exchange.error = getattr(error, "code", InternalError.code)
    exchange.status = response.status_code
    served.saw(exchange)
    return response


def take_over_routes(served: Predictor, run: Callable[[Request], Response]) -> None:
    """Make azmlinfsrv answer unknown routes and methods in our form, describe this model in `/swagger.json`, and let
    predictions take the shortcut.

    It sets its own handlers for all HTTP errors; one for a status code goes before them. `init()` runs while its
    blueprint is being registered, which is the moment to add to it; what is recorded runs once it is.
    """
    routes = sys.modules.get("azureml_inference_server_http.server.routes")
    if routes is None:  # not inside azmlinfsrv
        return
    for status, kind, message in (
        (404, NotFound, "there is nothing at this path"),
        (405, MethodNotAllowed, "this path does not take this method"),
    ):
        routes.main_blueprint.app_errorhandler(status)(_handler(kind, message))
    blueprint, cors = routes.main_blueprint, routes.config.cors_origins
    blueprint.record(lambda state: _describe(state.app.view_functions, served))
    blueprint.record(lambda state: shortcut.before(state.app, blueprint, cors, run))
    logging.getLogger("azmlinfsrv").addFilter(_not_said_twice)


def _describe(views: dict[str, Any], served: Predictor) -> None:
    """Version 2 of Swagger can't say what this server takes: it stays azmlinfsrv's."""
    theirs = views["main.get_swagger_specification"]

    def view() -> Any:
        if current_request.args.get("version", "3") not in ("3", "3.0"):
            return theirs()
        try:
            return json_answer(openapi.description(served.signature, served.outputs))
        except Exception as error:  # noqa: BLE001  # as in `exchanged`
            return failure(error, current_request)

    views["main.get_swagger_specification"] = view


def _not_said_twice(record: logging.LogRecord) -> bool:
    """azmlinfsrv logs two lines for each request, which ours says in one."""
    return record.module != "routes" or record.levelno != logging.INFO


def _handler(kind: type[ScoreError], message: str) -> Any:
    return lambda _error: error_answer(kind(message), current_request)
