"""The body formats: every module of this package that has a `NAME`.

To add one, add a file here with `NAME`, `TYPES`, `PRIORITY`, `accepts(body)`, `effort(body)`, `decode(body)` and
`encode(outputs, decoded)`. Of those that accept a body, the one with the highest priority decodes it.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import orjson
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

import score.codecs
from score.errors import EmptyBody, InvalidJson, NotAcceptable, UnknownParameter, UnsupportedMediaType

Outputs = Mapping[str, np.ndarray] | np.ndarray

_JSON_TYPES = ("", "application/json", "text/plain", "text/json", "application/x-www-form-urlencoded")


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


def named(outputs: Outputs) -> dict[str, np.ndarray]:
    """Outputs by name: the only one of a model that names none is called `output`."""
    return {ONLY: outputs} if isinstance(outputs, np.ndarray) else dict(outputs)


@dataclass(frozen=True)
class Body:
    """A request's body, decompressed. `json_length` is how much of it is JSON, where binary data follow; `limit` how
    many bytes it may become, whatever it is packed in."""

    data: bytes
    content_type: str = ""
    json_length: int | None = None
    limit: int = 100_000_000

    @cached_property
    def is_json(self) -> bool:
        """JSON is told by how it begins: `curl -d` calls everything form-urlencoded. A body that says it is JSON, or
        text, is judged as JSON, so that what is wrong with it can be said."""
        if self.json_length is not None or self.content_type in _JSON_TYPES:
            return True
        return self.data[:64].lstrip()[:1] in (b"{", b"[")

    @cached_property
    def document(self) -> Any:
        """The JSON in it, parsed once. Raises `InvalidJson`."""
        text = self.data if self.json_length is None else self.data[: self.json_length]
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            near = text[max(error.pos - 12, 0) : error.pos + 12].decode("utf-8", "replace")
            raise InvalidJson(f"not valid JSON at byte {error.pos}: {error.msg} (near {near!r})") from None


@dataclass(frozen=True)
class Decoded:
    """A request's arrays (one, or by input name), the dialect that the answer mirrors, what else it asked for, and how
    many classes of each row, as it said it."""

    arrays: np.ndarray | Mapping[str, np.ndarray]
    dialect: str
    asked: Any = None  # of a kind that JSON has: it may come from another process
    top_k: Any = None


@dataclass(frozen=True)
class Encoded:
    """An answer's body, its content type, and headers of its format."""

    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Codec(Protocol):
    """What a module in `score.codecs` offers. `TYPES` are the content types that it writes; `effort` is how many bytes
    of a body have to be parsed or unpacked, told without doing it, and None where its beginning says that it is another
    codec's."""

    NAME: str
    TYPES: tuple[str, ...]
    PRIORITY: int

    def accepts(self, body: Body) -> bool: ...
    def effort(self, body: Body) -> int | None: ...
    def decode(self, body: Body) -> Decoded: ...
    def encode(self, outputs: Outputs, decoded: Decoded) -> Encoded: ...


@cache
def codecs() -> dict[str, Codec]:
    """All codecs by name, those to ask first in front."""
    modules = (
        importlib.import_module(f"{score.codecs.__name__}.{info.name}")
        for info in pkgutil.iter_modules(score.codecs.__path__)
        if not info.name.startswith("_")
    )
    found = sorted((module for module in modules if hasattr(module, "NAME")), key=lambda module: -module.PRIORITY)
    return {module.NAME: module for module in found}


def choose(body: Body) -> Codec:
    """The codec for a body, told by its content first. Raises `EmptyBody` or `UnsupportedMediaType`."""
    if not body.data:
        raise EmptyBody("the body is empty")
    for codec in codecs().values():
        if codec.accepts(body):
            return codec
    raise UnsupportedMediaType(f"the body is {body.content_type or 'of no stated type'}; accepted are {_types()}")


def effort(body: Body) -> int:
    """How many bytes have to be parsed or unpacked to decode a body."""
    known = (codec.effort(body) for codec in codecs().values())
    return next((found for found in known if found is not None), len(body.data))


def for_answer(codec: Codec, accept: str | None, labelled: bool = False) -> Codec:
    """The codec for the answer: the request's own unless the `Accept` header rules it out or likes another better;
    JSON where the answer is `labelled`.

    Raises `NotAcceptable`.
    """
    if labelled:
        return codecs()["json"]
    if not accept or accept == "*/*" or accept in codec.TYPES:
        return codec
    wanted = parse_accept_header(accept, MIMEAccept)
    best, quality = codec, max(wanted.quality(kind) for kind in codec.TYPES)
    for other in reversed(codecs().values()):  # the plainest first
        if (found := max(wanted.quality(kind) for kind in other.TYPES)) > quality:
            best, quality = other, found
    if quality <= 0:
        raise NotAcceptable(f"the request accepts {accept}; answers can be {_types()}")
    return best


def _types() -> str:
    return ", ".join(sorted({kind for codec in codecs().values() for kind in codec.TYPES}))
