"""All that relies on the insides of azureml-inference-server-http, as read from its version 1.5.1.

Its Flask application owns liveness, version 2 of the Swagger description, Application Insights' records and CORS. What
it does to every answer is done here too, for those that do not pass through it: a test holds both ways' answers against
each other.
"""

import logging
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from azureml_inference_server_http.api.aml_request import rawhttp
from flask import Request, Response, g
from flask import request as current_request

from score.errors import MethodNotAllowed, NotFound, ScoreError
from score.server import answer, card
from score.server.answer import Answer
from score.server.api import SCORE
from score.server.body import PIECE, Intake
from score.server.models import Models
from score.server.prediction import Prediction, asked_for, named_in, predict
from score.server.service import Head

__all__ = ["rawhttp", "Request", "Response"]

ROUTES = "azureml_inference_server_http.server.routes"
FAILED = "x-ms-run-function-failed"  # stock responses have it, as Python's True or False
LONGEST_ID = 100  # characters
# A request with one of these headers goes through Flask: only azmlinfsrv knows what to do with it.
_ITS_OWN = frozenset(("x-ms-request-id", "traceid"))

_models: Models | None = None


def serving() -> bool:
    """Whether this process is azmlinfsrv's, and not a library's or a test's."""
    return ROUTES in sys.modules


def models() -> Models:
    """What `init()` has found."""
    assert _models is not None, "init() runs before any request"
    return _models


def take_over(found: Models) -> None:
    """Make azmlinfsrv answer unknown routes and methods in our form, and describe this model in `/swagger.json`.

    It sets its own handlers for all HTTP errors; one for a status code goes before them. `init()` runs while its
    blueprint is being registered, which is the moment to add to it; what is recorded runs once it is.
    """
    global _models
    _models = found
    if not serving():
        return
    blueprint = sys.modules[ROUTES].main_blueprint
    for status, kind, message in (
        (404, NotFound, "there is nothing at this path"),
        (405, MethodNotAllowed, "{path} does not take {method}"),
    ):
        blueprint.app_errorhandler(status)(_handler(kind, message))
    blueprint.record(lambda state: _describe(state.app.view_functions))
    logging.getLogger("azmlinfsrv").addFilter(_not_said_twice)


def has_hooks() -> bool:
    """Whether its hooks have work to do with each prediction: Application Insights' record, or CORS."""
    routes = sys.modules[ROUTES]
    return bool(routes.main_blueprint.appinsights_client.enabled or routes.config.cors_origins)


def wants(headers: Mapping[str, str]) -> bool:
    """Whether a request has headers that only azmlinfsrv knows what to do with."""
    if not _ITS_OWN.isdisjoint(headers):
        return True
    own, client = headers.get("x-request-id", ""), headers.get("x-ms-client-request-id", "")
    return bool(own and not _fit(own)) or bool(client and not _fit(client))


def _fit(request_id: str) -> bool:
    return len(request_id) <= LONGEST_ID and answer.sendable(request_id)


def stamp(found: Answer, head: Head, seconds: float) -> dict[str, str]:
    """The answer's headers, with those that azmlinfsrv adds: ids, its version, and the time that it took."""
    client = head.headers.get("x-ms-client-request-id", "")
    return {
        **found.headers,
        "x-ms-run-fn-exec-ms": f"{seconds * 1e3:.3f}",
        FAILED: "True" if found.status >= 500 else "False",
        **_version(),
        "x-request-id": head.request_id,
        "x-ms-request-id": client or head.request_id,
        **({"x-ms-client-request-id": client} if client else {}),
    }


@cache
def _version() -> Mapping[str, str]:
    """The header with azmlinfsrv's version, which it leaves in the environment when it starts."""
    version = os.environ.get("HTTP_X_MS_SERVER_VERSION")
    return {"x-ms-server-version": version} if version else {}


def respond(request: Request) -> Response:
    """Answer a request to `/score` inside of Flask, in the thread that it has."""
    head = Head.of(request.method, request.query_string, _headers(request), getattr(g, "request_id", ""))
    name = request.path.removeprefix("/score").strip("/")
    found = _predict(models(), head, name, request) if head.method == "POST" else card.answer_to(models(), head, name)
    made = _response(found)
    made.headers[FAILED] = str(found.status >= 500)
    return made


def _predict(served: Models, head: Head, name: str, request: Request) -> Answer:
    with Prediction(served, head, SCORE) as prediction:
        intake = Intake(head.headers, served.settings, prediction.share)
        # Not request.data, which Flask leaves empty for a form: `curl -d` sends one unless told otherwise.
        while piece := request.stream.read(PIECE):
            intake.add(piece)
        body = intake.body()
        wanted = name or asked_for(head) or (named_in(body) if served.several else "")
        prediction.service = served.take(wanted)
        prediction.answer = predict(prediction.service, SCORE, head, body, prediction.record)
    assert prediction.answer is not None
    return prediction.answer


def _headers(request: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers}


def _response(found: Answer) -> Response:
    made = Response(found.body, found.status, dict(found.headers))
    if "content-type" not in found.headers:
        del made.headers["content-type"]  # Flask calls everything HTML, even nothing
    return made


def _handler(kind: type[ScoreError], message: str) -> Any:
    """For what Flask's routing refuses, before azmlinfsrv's hooks have given the request an id."""

    def handle(_error: Any) -> Response:
        head = Head.of(current_request.method, b"", _headers(current_request), getattr(g, "request_id", ""))
        said = message.format(path=current_request.path, method=head.method)
        found = answer.of_error(kind(said), head.request_id)
        return _response(Answer(found.status, stamp(found, head, 0.0), found.body))

    return handle


def _describe(views: dict[str, Any]) -> None:
    """Version 2 of Swagger, which a request without a version gets, can't say what this server takes: it stays
    azmlinfsrv's."""
    theirs = views["main.get_swagger_specification"]

    def view() -> Any:
        if current_request.args.get("version") not in ("3", "3.0"):
            return theirs()
        try:
            return _response(card.swagger(models()))
        except Exception as error:  # noqa: BLE001  # as in `_predict`
            return _response(answer.of_failure(error, getattr(g, "request_id", "")))

    views["main.get_swagger_specification"] = view


def _not_said_twice(record: logging.LogRecord) -> bool:
    """azmlinfsrv logs two lines for each request, which ours says in one."""
    return record.module != "routes" or record.levelno != logging.INFO
