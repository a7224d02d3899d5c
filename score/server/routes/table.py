"""What a row of a table of routes is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from score.errors import InvalidJson
from score.server.answer import Answer
from score.server.api import Api
from score.server.models import Models
from score.server.service import Head, Service


@dataclass(frozen=True)
class Asked:
    """A request that is no prediction: its head, what its path says, its body, and the models of this server."""

    head: Head
    path: Mapping[str, str]
    body: bytes
    models: Models

    @property
    def model(self) -> str:
        """The name in the path. Raises `UnknownModel` for one, or a version of it, that is not served."""
        name = self.path["model"]
        self.models.state(name, self.path.get("version", ""))
        return name

    def document(self) -> dict[str, Any]:
        """The JSON object in the body; empty where there is none. Raises `InvalidJson`."""
        try:
            found = orjson.loads(self.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise InvalidJson(f"not valid JSON: {error.msg}") from None
        if not isinstance(found, dict):
            raise InvalidJson("the body is JSON, and not an object")
        return found


@dataclass(frozen=True)
class Page:
    """A route that answers about the server or its models. `at_once` where nothing in it ever takes time: it is
    answered on the event loop."""

    path: str
    summary: str
    answer: Callable[[Asked], Answer]
    api: Api
    methods: tuple[str, ...] = ("GET",)
    at_once: bool = False
    kind: str = "application/json"


@dataclass(frozen=True)
class Predicts:
    """A route that takes predictions. `{model}` and `{version}` in its path choose the model."""

    path: str
    summary: str
    api: Api
    methods: tuple[str, ...] = ("POST",)


Row = Page | Predicts


def of_model(show: Callable[[Service], Any]) -> Callable[[Asked], Answer]:
    """A page about the model in the path, which is loaded if it has to be."""
    from score.server import answer

    def page(asked: Asked) -> Answer:
        with asked.models.using(asked.model) as service:
            return answer.of_json(show(service))

    return page
