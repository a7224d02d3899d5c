"""What answers `/score`, without a word of how requests come in: the predictor, and those who watch it."""

import itertools
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from score.inference import pipeline
from score.inference.predictor import Predictor
from score.server import answer
from score.server.answer import Answer
from score.server.api import Api
from score.server.data_collector import Collector
from score.server.metrics import Observer, RequestRecord
from score.server.telemetry import Telemetry


class Watcher(Protocol):
    """Takes note of requests that have been answered."""

    def saw(self, record: RequestRecord) -> None: ...


class Head(NamedTuple):
    """A request without its body; header names in lower case. Its id is the one that it came with, or its own."""

    method: str
    query: str
    headers: Mapping[str, str]
    request_id: str

    @classmethod
    def of(cls, method: str, query: bytes, headers: Mapping[str, str], request_id: str = "") -> "Head":
        known = request_id or headers.get("x-request-id") or new_id()
        return cls(method, query.decode("latin-1"), headers, known)


_drawn: str
_numbers: Iterator[int]


def new_id() -> str:
    """A UUID in the form of version 4: its first half is drawn for the process, the other counts. It is no secret."""
    return f"{_drawn}{next(_numbers):012x}"


def _draw() -> None:
    global _drawn, _numbers
    digits = f"{random.getrandbits(72):018x}"
    _drawn = f"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-{'89ab'[random.getrandbits(2)]}{digits[15:]}-"
    _numbers = itertools.count(random.getrandbits(40))


_draw()
os.register_at_fork(after_in_child=_draw)  # or a worker's would be its sister's


@dataclass(frozen=True, eq=False)
class Service:
    """A predictor, what it gave up once it was loaded, and what watches it."""

    predictor: Predictor
    observer: Observer
    confined: tuple[str, ...] = ()
    watchers: tuple[Watcher, ...] = field(default=())

    @classmethod
    def of(cls, predictor: Predictor, confined: tuple[str, ...] = (), observer: Observer | None = None) -> "Service":
        """With the log, the counters, and what the settings and the environment ask for."""
        observer = observer or Observer(predictor.settings.log_requests)
        others = (Telemetry.if_exported(), Collector.if_wanted(predictor.settings.collect_data))
        return cls(predictor, observer, confined, (observer, *(each for each in others if each is not None)))

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.predictor.served.name

    @property
    def version(self) -> str:
        return self.predictor.served.version

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

    def encode(self, prepared: pipeline.Prepared, outputs: Any, head: Head, api: Api) -> Answer:
        """The answer to a request that the model has answered, as the protocol has it."""
        if api.dialects:
            prepared = prepared._replace(decoded=api.mirrored(prepared.decoded))
        encoded = pipeline.encode(self.predictor, prepared, outputs, api.accepted(head.headers.get("accept")))
        return answer.of_encoded(encoded, head.headers.get("accept-encoding", ""))
