"""What answers `/score`, without a word of how requests come in: the predictor, and those who watch it."""

import difflib
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from score.codecs import registry as codecs
from score.codecs.base import PARAMETERS, Body, refuse_unknown
from score.errors import InternalError, MethodNotAllowed
from score.inference import pipeline
from score.inference.predictor import Predictor
from score.server import answer, openapi, page
from score.server.answer import Answer
from score.server.body import Intake
from score.server.data_collector import Collector
from score.server.metrics import Observer, RequestRecord
from score.server.telemetry import Telemetry


class Watcher(Protocol):
    """Takes note of requests that have been answered."""

    def saw(self, record: RequestRecord) -> None: ...


@dataclass(frozen=True)
class Head:
    """A request without its body; header names in lower case. Its id is the one that it came with, or its own."""

    method: str
    query: str
    headers: Mapping[str, str]
    request_id: str

    @classmethod
    def of(cls, method: str, query: bytes, headers: Mapping[str, str], request_id: str = "") -> "Head":
        known = request_id or headers.get("x-request-id") or new_id()
        return cls(method, query.decode("latin-1"), headers, known)


@dataclass(eq=False)
class Prediction:
    """One prediction while it is answered: the record of it, its body as it comes in, and the answer."""

    record: RequestRecord
    intake: Intake | None = None
    answer: Answer | None = None


def new_id() -> str:
    """A UUID of version 4. It is no secret, and so need not come from the kernel."""
    digits = f"{random.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@dataclass(frozen=True, eq=False)
class Service:
    """A predictor, what it gave up once it was loaded, and what watches it."""

    predictor: Predictor
    observer: Observer
    confined: tuple[str, ...] = ()
    watchers: tuple[Watcher, ...] = field(default=())

    @classmethod
    def of(cls, predictor: Predictor, confined: tuple[str, ...] = ()) -> "Service":
        """With the log, the counters, and what the settings and the environment ask for."""
        observer = Observer(predictor.settings.log_requests)
        others = (Telemetry.if_exported(), Collector.if_wanted(predictor.settings.collect_data))
        return cls(predictor, observer, confined, (observer, *(each for each in others if each is not None)))

    def saw(self, record: RequestRecord) -> None:
        """Count, log, export and collect what was asked and answered."""
        for watcher in self.watchers:
            watcher.saw(record)

    def card(self) -> dict[str, Any]:
        """The model card that `GET /score` shows."""
        batcher = self.predictor.batcher
        serving = self.observer.snapshot() | {
            "batching": batcher.separable,
            "max_batch": batcher.most_rows,
            "waiting": batcher.waiting,
            "running_rows": batcher.running,
            "worker": os.getpid(),
            "confined": list(self.confined),
        }
        card = self.predictor.card()
        versions = card.pop("versions")  # last, for those who read it
        return card | {"serving": serving, "versions": versions}

    def without_body(self, head: Head) -> Answer | None:
        """The answer to anything but a prediction; None for a POST."""
        if head.method == "POST":
            return None
        if head.method == "OPTIONS":
            return Answer(204, {"allow": answer.METHODS})
        try:
            if head.method not in ("GET", "HEAD"):
                raise MethodNotAllowed(f"/score does not take {head.method}")
            accepted = parse_accept_header(head.headers.get("accept"), MIMEAccept)
            if accepted.best_match(("application/json", "text/html")) == "text/html":
                return Answer(200, page.HEADERS, page.PAGE)
            return answer.of_json(self.card())
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer that it can read
            return answer.of_failure(error, head.request_id)

    def swagger(self) -> Answer:
        """The OpenAPI description of this model."""
        served, runner = self.predictor, self.predictor.runner
        return answer.of_json(
            openapi.description(
                served.signature, served.outputs, None if runner is None else runner.card(), served.example()
            )
        )

    def predict(self, head: Head, body: Body, record: RequestRecord) -> Answer:
        """Answer a POST, in the thread that calls. Raises a `RequestError`."""
        codec = codecs.choose(body)
        record.codec = codec.NAME
        decoded = pipeline.decode(self.predictor, codec, body)
        prepared = pipeline.prepare(self.predictor, codec, decoded, top_k(head.query))
        record.inputs = prepared.inputs
        record.answered(*pipeline.run(self.predictor, prepared))
        return self.encode(head, prepared, record)

    def encode(self, head: Head, prepared: pipeline.Prepared, record: RequestRecord) -> Answer:
        """The answer to a request that the model has answered."""
        encoded = pipeline.encode(self.predictor, prepared, record.outputs, head.headers.get("accept"))
        return answer.of_encoded(encoded, head.headers.get("accept-encoding", ""))

    @contextmanager
    def predicting(self, head: Head) -> Iterator[Prediction]:
        """Around each prediction. Whatever is raised in it becomes the answer; what was held is given back, and all who
        watch see it."""
        found = Prediction(RequestRecord(head.request_id, trace=head.headers))
        try:
            yield found
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer that it can read
            found.record.error = getattr(error, "code", InternalError.code)
            found.answer = answer.of_failure(error, head.request_id)
        finally:
            if found.intake is not None:
                found.intake.release()
        assert found.answer is not None
        found.record.status = found.answer.status
        self.saw(found.record)


def top_k(query: str) -> str | None:
    """What the query asks of classes. Raises `UnknownParameter` for a word that is nearly a parameter."""
    if not query:
        return None
    given = dict(reversed(parse_qsl(query, keep_blank_values=True)))
    refuse_unknown([name for name in given if name != "top_k" and difflib.get_close_matches(name, PARAMETERS, n=1)])
    return given.get("top_k")
