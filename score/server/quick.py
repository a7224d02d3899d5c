"""The quick way: a small request of numbers whose head came before, without a task, a scope or messages of its own.

It is read, decoded and validated by one call, waits in the batcher, and is encoded and sent by another. All that is
more than that (several models, tasks, texts, large bodies, another path) is left to the application, which answers the
same: a test holds the two against each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np

from score.codecs import registry as codecs
from score.codecs.base import Body, Codec, Decoded
from score.errors import LoadError
from score.inference import pipeline
from score.inference.batching.ticket import Ticket
from score.inference.pipeline import Prepared
from score.inference.predictor import Predictor
from score.server import azmlinfsrv
from score.server.answer import Answer
from score.server.api import SCORE
from score.server.body import content_type_of, nbytes
from score.server.heads import TEXTS
from score.server.models import Models
from score.server.prediction import NAME_HEADER, Prediction
from score.server.sending import head_of
from score.server.service import Head, Service
from score.server.waiting import Waiting

SMALL = 256 << 10  # bytes that are decoded, or encoded, on the event loop: a few milliseconds at most
MOST_TEXT = 4_000  # characters that are tokenised there


class Reply(Protocol):
    """A connection's side of one request."""

    def gone(self) -> bool:
        """Whether the client has left."""

    def send(self, head: str, body: bytes) -> None:
        """Send a whole answer, `head` being its status and headers; nothing to a client that has left."""


class PlainHead(NamedTuple):
    """A head that asks for nothing but a prediction."""

    headers: Mapping[str, str]
    content_type: str


class Quick:
    """For the only model of a server."""

    def __init__(self, models: Models, service: Service, waiting: Waiting, elsewhere: Executor) -> None:
        self._models, self._service, self._waiting, self._elsewhere = models, service, waiting, elsewhere
        self._settings = models.settings
        self._limit = int(self._settings.max_body_mb * 1_000_000)

    @classmethod
    def of(cls, models: Models, waiting: Waiting, elsewhere: Executor) -> Quick | None:
        """None where there are several models, none that could be loaded, or requests are more than numbers."""
        service = models.only
        if service is None:
            return None
        try:
            runner, hooks = service.predictor.runner, service.predictor.hooks
        except LoadError:  # each request is answered with it
            return None
        if runner is not None or hooks.preprocess is not None or hooks.postprocess is not None:
            return None
        return cls(models, service, waiting, elsewhere)

    def head(self, scope: Mapping[str, Any]) -> PlainHead | None:
        """What a head says, where it is plain; `scope` is ASGI's, with the headers as text."""
        headers = scope[TEXTS]
        if scope["method"] != "POST" or scope["path"] != SCORE.route or scope["query_string"]:
            return None
        if NAME_HEADER in headers or "content-encoding" in headers or azmlinfsrv.wants(headers):
            return None
        said = content_type_of(headers)
        return PlainHead(headers, said.name) if said.json_length is None and said.header is None else None

    def begin(self, plain: PlainHead, data: bytes, reply: Reply) -> bool:
        """Take a request; what is wrong with it is answered at once. False, and nothing has happened, where it is one
        for the application."""
        if len(data) > min(SMALL, self._limit):
            return False
        prediction = Prediction(self._models, Head.of("POST", b"", plain.headers), SCORE)
        prediction.service = self._service
        predictor, record = self._service.predictor, prediction.record
        try:
            body = Body(data, plain.content_type, None, self._limit)
            if (codec := quick_codec(predictor, body)) is None:
                return False
            record.codec = codec.NAME
            decoded = codec.decode(body)
            if letters(decoded) > MOST_TEXT:
                return False
            prediction.share.hold(len(data), self._settings)
            prepared = pipeline.prepare(predictor, codec, decoded)
            record.inputs = prepared.inputs
            resume = partial(self._answered, prediction, prepared, reply)
            self._waiting.submit(predictor.batcher, prepared.inputs, reply.gone, resume)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer that it can read
            _end(prediction, reply, error)
        return True

    def _answered(self, prediction: Prediction, prepared: Prepared, reply: Reply, ticket: Ticket) -> None:
        record, encode = prediction.record, self._service.encode
        try:
            record.answered(*ticket.answer())
            given = (prepared, record.outputs, prediction.head, SCORE)
            if nbytes(record.outputs) > SMALL:
                later = self._waiting.loop.run_in_executor(self._elsewhere, encode, *given)
                later.add_done_callback(partial(_encoded, prediction, reply))
                return
            prediction.answer = encode(*given)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer that it can read
            _end(prediction, reply, error)
        else:
            _end(prediction, reply)


def _encoded(prediction: Prediction, reply: Reply, found: asyncio.Future[Answer]) -> None:
    error = found.exception()
    if error is None:
        prediction.answer = found.result()
    _end(prediction, reply, error)


def _end(prediction: Prediction, reply: Reply, error: BaseException | None = None) -> None:
    prediction.close(error)
    assert prediction.answer is not None
    sent = azmlinfsrv.stamp(prediction.answer, prediction.head, perf_counter() - prediction.record.began)
    reply.send(head_of(prediction.answer, sent), prediction.answer.body)


def quick_codec(predictor: Predictor, body: Body) -> Codec | None:
    """The codec of a body that takes no time, as most do; None for any other."""
    if len(body.data) > SMALL or predictor.hooks.preprocess is not None:
        return None
    codec = codecs.choose(body)
    return codec if (codec.effort(body) or 0) <= SMALL else None


def letters(decoded: Decoded) -> int:
    """Characters of texts; 0 for numbers."""
    if decoded.items is not None:
        return sum(len(item) for item in decoded.items.values if isinstance(item, str))
    arrays = decoded.arrays
    if isinstance(arrays, np.ndarray) and arrays.dtype.kind == "U":
        return int(arrays.size * arrays.dtype.itemsize // 4)
    return 0
