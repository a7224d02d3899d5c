"""One prediction while it is answered, whatever server has taken it in."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl

from score.codecs import registry as codecs
from score.codecs.base import PARAMETERS, Body, refuse_unknown
from score.errors import InternalError, InvalidJson
from score.inference import pipeline
from score.server import answer
from score.server.answer import Answer
from score.server.api import Api
from score.server.body import Intake
from score.server.metrics import RequestRecord
from score.server.models import Models
from score.server.service import Head, Service

NAME_HEADER = "azureml-model-name"  # the model that a request is for, beside Azure's own azureml-model-deployment
_NAME = "model"  # the same in the query, or in a body of JSON
_OF_ROUTES = ("top_k", _NAME)


@dataclass(eq=False)
class Prediction:
    """The record of it, its body as it comes in, the model that it is for, and the answer."""

    record: RequestRecord
    intake: Intake | None = None
    service: Service | None = None
    answer: Answer | None = None
    error: Exception | None = None

    def done(self) -> None:
        """Answered by another protocol than HTTP."""
        self.answer = Answer(200)


@contextmanager
def predicting(models: Models, head: Head, api: Api) -> Iterator[Prediction]:
    """Around each prediction. Whatever is raised in it becomes the answer; what was held is given back, and all who
    watch see it."""
    found = Prediction(RequestRecord(head.request_id, trace=head.headers, route=api.route))
    try:
        yield found
    except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer that it can read
        found.error = error
        found.record.error = getattr(error, "code", InternalError.code)
        found.answer = answer.of_failure(error, head.request_id, api.said)
    finally:
        if found.intake is not None:
            found.intake.release()
        if found.service is not None:
            models.release(found.service)
    assert found.answer is not None
    found.record.status = found.answer.status
    if models.several and found.service is not None:
        found.record.model = found.service.name
    (found.service or models.front).saw(found.record)


def asked_for(head: Head) -> str:
    """The model that a request names in its head; empty where it does not."""
    return head.headers.get(NAME_HEADER) or (_query(head.query).get(_NAME, "") if _NAME in head.query else "")


def named_in(body: Body) -> str:
    """The model that a body of JSON names; empty where it does not, or can't be read: then its codec says why."""
    if b'"model"' not in body.data or not body.is_json:
        return ""
    try:
        document = body.document
    except InvalidJson:
        return ""
    name = document.get(_NAME) if isinstance(document, dict) else None
    return name if isinstance(name, str) else ""


def top_k(query: str) -> str | None:
    """What the query asks of classes. Raises `UnknownParameter` for a word that is nearly a parameter."""
    if not query:
        return None
    given = _query(query)
    refuse_unknown(
        [name for name in given if name not in _OF_ROUTES and difflib.get_close_matches(name, PARAMETERS, n=1)]
    )
    return given.get("top_k")


def _query(query: str) -> dict[str, str]:
    return dict(reversed(parse_qsl(query, keep_blank_values=True)))


def predict(service: Service, api: Api, head: Head, body: Body, record: RequestRecord) -> Answer:
    """Answer a request, in the thread that calls. Raises a `RequestError`."""
    body = api.read(body)
    codec = codecs.choose(body)
    record.codec = codec.NAME
    decoded = api.mirrored(pipeline.decode(service.predictor, codec, body))
    prepared = pipeline.prepare(service.predictor, codec, decoded, top_k(head.query))
    record.inputs = prepared.inputs
    record.answered(*pipeline.run(service.predictor, prepared))
    return service.encode(prepared, record.outputs, api.accepted(head.headers.get("accept")), head)
