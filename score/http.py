"""Between Flask and the rest: bodies in, answers and errors out."""

import logging
import sys
import uuid
from typing import Any

import orjson
from flask import Request, Response, g

from score.codecs.registry import Encoded
from score.errors import BodyTooLarge, InternalError, MethodNotAllowed, NotFound, ScoreError

log = logging.getLogger("azmlinfsrv.score")


def read_body(request: Request, limit_mb: float) -> bytes:
    """The raw body, whatever its Content-Type says. Raises `BodyTooLarge`, without reading more than the limit."""
    limit = int(limit_mb * 1_000_000)
    too_large = f"the body is larger than {limit_mb:g} MB"
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(too_large)
    # Not request.data, which Flask leaves empty for a form: `curl -d` sends one unless told otherwise.
    body: bytes = request.stream.read(limit + 1)
    if len(body) > limit:
        raise BodyTooLarge(too_large)
    return body


def content_type(request: Request) -> str:
    return str(request.mimetype or "")


def answer(encoded: Encoded) -> Response:
    return Response(encoded.body, 200, content_type=encoded.content_type)


def json_answer(value: Any) -> Response:
    return Response(
        orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str), 200, content_type="application/json"
    )


def error_answer(error: ScoreError) -> Response:
    """An error as JSON, with its status and the request's id."""
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    if error.status == 405:
        headers["Allow"] = "GET, HEAD, POST, OPTIONS"
    body = orjson.dumps({"error": error.as_dict() | {"request_id": request_id()}})
    return Response(body, error.status, headers, content_type="application/json")


def failure(error: Exception) -> Response:
    """Any exception as an answer: ours as it is; anything else is a bug, which the log gets in full."""
    if isinstance(error, ScoreError):
        if error.status >= 500 or error.__cause__ is not None:
            log.warning("%s %s", request_id(), error.screen(), exc_info=error.__cause__)
        return error_answer(error)
    log.error("%s a bug in the server", request_id(), exc_info=error)
    return error_answer(InternalError(f"{type(error).__name__} while answering the request"))


def request_id() -> str:
    """The id that azmlinfsrv gave the request (and sends back as x-request-id), or a new one outside of it."""
    return str(getattr(g, "request_id", "") or uuid.uuid4()) if g else str(uuid.uuid4())


def own_the_errors_of_routing() -> None:
    """Make azmlinfsrv answer unknown routes and methods in our form.

    It sets its own handlers for all HTTP errors; one for a status code goes before them. `init()` runs while its
    blueprint is being registered, which is the moment to add to it.
    """
    routes = sys.modules.get("azureml_inference_server_http.server.routes")
    if routes is None:  # not inside azmlinfsrv
        return
    for status, kind, message in (
        (404, NotFound, "there is nothing at this path"),
        (405, MethodNotAllowed, "this path does not take this method"),
    ):
        routes.main_blueprint.app_errorhandler(status)(_handler(kind, message))


def _handler(kind: type[ScoreError], message: str) -> Any:
    return lambda _error: error_answer(kind(message))
