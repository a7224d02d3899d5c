"""What passes between a request's body and the model: bodies, arrays, and what a codec is."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson

from score.errors import InvalidJson, UnknownParameter

Arrays = np.ndarray | Mapping[str, np.ndarray]
"""A model's inputs, or its outputs: one array, or several by name."""


class Records(Mapping[str, np.ndarray]):
    """One record a row, as detectors answer: arrays by name, of other sizes in each row. As a mapping, it has all of
    them, `output_0.boxes` being that of the first row: codecs that know only arrays by name give these."""

    def __init__(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.rows = tuple(rows)

    def __getitem__(self, name: str) -> np.ndarray:
        row, dot, rest = name.removeprefix("output_").partition(".")
        if not name.startswith("output_") or not dot or not row.isdecimal() or int(row) >= len(self.rows):
            raise KeyError(name)
        return self.rows[int(row)][rest]

    def __iter__(self) -> Iterator[str]:
        return (f"output_{at}.{name}" for at, row in enumerate(self.rows) for name in row)

    def __len__(self) -> int:
        return sum(map(len, self.rows))


JSON_TYPES = ("", "application/json", "text/plain", "text/json", "application/x-www-form-urlencoded")


PARAMETERS = ("top_k",)  # what a request may ask for beside its inputs


def refuse_unknown(given: Iterable[str], known: Sequence[str] = PARAMETERS) -> None:
    """Raise `UnknownParameter` for a name that nothing here takes: the answer would be to another question."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.6)
            raise UnknownParameter(
                f"there is no parameter {str(name)[:80]!r}" + (f"; did you mean {near[0]}?" if near else ""),
                hint=f"Leave it out, or correct its name: there is {', '.join(known)}.",
            )


ONLY = "output"


def named(outputs: Arrays) -> dict[str, np.ndarray]:
    """Arrays by name: the only one of a model that names none is called `output`."""
    return {ONLY: outputs} if isinstance(outputs, np.ndarray) else dict(outputs)


@dataclass(frozen=True)
class Body:
    """A request's body, decompressed. `json_length` is how much of it is JSON, where binary data follow; `limit` how
    many bytes it may become, whatever it is packed in; `codec` the only one that may read it, where the path says so;
    `header` whether a table's first row has the names of its columns, where the content type says so."""

    data: bytes
    content_type: str = ""
    json_length: int | None = None
    limit: int = 100_000_000
    codec: str = ""
    header: bool | None = None

    @property
    def is_json(self) -> bool:
        """JSON is told by how it begins: `curl -d` calls everything form-urlencoded. A body that says it is JSON, or
        text, is judged as JSON, so that what is wrong with it can be said."""
        if self.json_length is not None or self.content_type in JSON_TYPES:
            return True
        return self.data[:64].lstrip()[:1] in (b"{", b"[")

    @property
    def document(self) -> Any:
        """The JSON in it, parsed once. Raises `InvalidJson`."""
        if "_document" not in self.__dict__:  # not a cached_property, whose lock costs as much as a small document
            self.__dict__["_document"] = self._parsed()
        return self.__dict__["_document"]

    def _parsed(self) -> Any:
        text = self.data if self.json_length is None else self.data[: self.json_length]
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            near = text[max(error.pos - 12, 0) : error.pos + 12].decode("utf-8", "replace")
            raise InvalidJson(f"not valid JSON at byte {error.pos}: {error.msg} (near {near!r})") from None


@dataclass(frozen=True)
class Items:
    """What a task answers one by one: texts, pairs, pictures as base64, as JSON had them; and the request's parameters.
    `single` where it was one, and not a list."""

    values: tuple[Any, ...]
    single: bool
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Served:
    """What an answer may say of the model that it comes from: its name and version, the labels of its classes, and how
    many tokens texts are."""

    name: str = "model"
    version: str = "1"
    labels: tuple[str, ...] = ()
    tokens: Callable[[Sequence[str]], int] | None = None


class Decoded(NamedTuple):
    """A request's arrays (one, or by input name) or its items, the dialect that the answer mirrors, what else it asked
    for, and how many classes of each row, as it said it; of a table the names of its columns."""

    arrays: Arrays
    dialect: str
    asked: Any = None  # of a kind that JSON has: it may come from another process
    top_k: Any = None
    items: Items | None = None
    document: Any = None  # the JSON as it came, where the model's own `preprocess` reads it
    columns: tuple[str, ...] = ()
    served: Served = Served()


class Encoded(NamedTuple):
    """An answer's body, its content type, and headers of its format."""

    body: bytes
    content_type: str
    headers: Mapping[str, str] = {}


class Codec(Protocol):
    """What a module in `score.codecs` offers. `TYPES` are the content types that it writes; `EXAMPLES` are rows of the
    table in docs/http.md: a body, who sends it, the answer; `effort` is how many bytes
    of a body have to be parsed or unpacked, told without doing it, and None where its beginning says that it is another
    codec's."""

    NAME: str
    TYPES: tuple[str, ...]
    PRIORITY: int
    EXAMPLES: tuple[tuple[str, str, str], ...]

    def accepts(self, body: Body) -> bool: ...
    def effort(self, body: Body) -> int | None: ...
    def decode(self, body: Body) -> Decoded: ...
    def encode(self, outputs: Arrays, decoded: Decoded) -> Encoded: ...
