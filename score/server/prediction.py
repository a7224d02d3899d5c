"""One prediction while it is answered, whatever server has taken it in."""

import difflib
from typing import Any
from urllib.parse import parse_qsl

from score.codecs import registry as codecs
from score.codecs.base import PARAMETERS, Body, refuse_unknown
from score.errors import InternalError, InvalidJson
from score.inference import pipeline
from score.server import answer
from score.server.answer import Answer
from score.server.api import Api
from score.server.body import Share
from score.server.metrics import RequestRecord
from score.server.models import Models
from score.server.service import Head, Service

NAME_HEADER = "azureml-model-name"  # the model that a request is for, beside Azure's own azureml-model-deployment
_NAME = "model"  # the same in the query, or in a body of JSON
_OF_ROUTES = ("top_k", _NAME)


class Prediction:
    """The record of it, what it holds of the memory, the model that it is for, and the answer.

    To be entered as a context, or closed. Whatever is raised in it becomes the answer, in the form of the protocol;
    what was held is given back, and all who watch see it.
    """

    def __init__(self, models: Models, head: Head, api: Api) -> None:
        self.head = head
        self._models, self._api = models, api
        self.record = RequestRecord(head.request_id, trace=head.headers, route=api.route)
        self.share = Share()
        self.service: Service | None = None
        self.answer: Answer | None = None
        self.error: Exception | None = None

    def __enter__(self) -> "Prediction":
        return self

    def __exit__(self, _kind: Any, raised: BaseException | None, _trace: Any) -> bool:
        return self.close(raised)

    def close(self, raised: BaseException | None = None) -> bool:
        """It has an answer, or ended with what was `raised`; whether that has become the answer."""
        self.share.release()
        service, models, record = self.service, self._models, self.record
        if service is not None and models.several:
            models.release(service)
            record.model = service.name
        if raised is not None:
            if not isinstance(raised, Exception):
                return False
            self.error = raised
            record.error = getattr(raised, "code", InternalError.code)
            self.answer = answer.of_failure(raised, self.head.request_id, self._api.said)
        assert self.answer is not None
        record.status = self.answer.status
        (service or models.front).saw(record)
        return True

    def done(self) -> None:
        """Answered by another protocol than HTTP."""
        self.answer = Answer(200)


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
    decoded = pipeline.decode(service.predictor, codec, body)
    prepared = pipeline.prepare(service.predictor, codec, decoded, top_k(head.query))
    record.inputs = prepared.inputs
    record.answered(*pipeline.run(service.predictor, prepared))
    return service.encode(prepared, record.outputs, head, api)
