"""`GET /score`: the model card, for machines and as a page; where there are several models, their list."""

from typing import Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from score.errors import MethodNotAllowed
from score.server import answer, openapi, page
from score.server.answer import Answer
from score.server.models import Models
from score.server.prediction import asked_for
from score.server.routes import every_row
from score.server.service import Head

_TYPES = ("application/json", "text/html")


def answer_to(models: Models, head: Head, name: str) -> Answer:
    """The answer to anything but a prediction; a model that is not in memory is loaded."""
    if head.method == "OPTIONS":
        return Answer(200, {"allow": answer.allowed(("GET", "POST"))})
    try:
        if head.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"/score does not take {head.method}")
        own, name = bool(name), name or asked_for(head)
        html = parse_accept_header(head.headers.get("accept"), MIMEAccept).best_match(_TYPES) == _TYPES[1]
        if not name and models.several and len(models.names) > 1:
            return _page(page.listed(models.index())) if html else answer.of_json({"models": listed(models)})
        if html:
            if name:
                models.state(name)
            return _page(page.PAGE_OF_ONE if own else page.PAGE)
        with models.using(name) as service:
            return answer.of_json(service.card())
    except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer that it can read
        return answer.of_failure(error, head.request_id)


def listed(models: Models) -> list[dict[str, Any]]:
    """Every model with its state and where it answers."""
    return [each | {"url": f"/score/{each['name']}"} for each in models.index()]


def swagger(models: Models) -> Answer:
    """The OpenAPI description of this server, and of the model that `/score` answers with."""
    if models.several and len(models.names) > 1:
        return answer.of_json(openapi.of_several(models.names, every_row()))
    with models.using("") as service:
        served, runner = service.predictor, service.predictor.runner
        task = None if runner is None else runner.card()
        return answer.of_json(
            openapi.description(served.signature, served.outputs, task, served.example(), every_row(), models.names)
        )


def _page(body: bytes) -> Answer:
    return Answer(200, page.HEADERS, body)
