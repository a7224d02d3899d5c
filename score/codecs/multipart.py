"""`multipart`: a form with one or more files, as browsers and `curl -F` send it; and with `parameters`, as JSON.

One file alone is what it is by itself: a picture, an array. Several, or one with parameters, are items of the model's
task. Specification: RFC 7578; read by werkzeug.
"""

import base64
from typing import Any

import numpy as np
import orjson
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from score.codecs import json_dialects
from score.codecs.base import Arrays, Body, Decoded, Encoded, Items
from score.errors import InvalidForm

NAME = "multipart"
TYPES = ("application/json",)
PRIORITY = 40
EXAMPLES = (
    (
        "`multipart/form-data`: one or more files, and `parameters` as JSON",
        "`curl -F`, browsers",
        "as the task answers",
    ),
)
_KIND = "multipart/form-data"
_LONGEST_BOUNDARY = 70  # characters, by RFC 2046
MOST_PARTS = 1000


def accepts(body: Body) -> bool:
    return body.content_type == _KIND


def effort(body: Body) -> int | None:
    """The parts are taken as they are; what they hold is decoded where it is one file, as that would be."""
    if body.content_type != _KIND:
        return None
    files, parameters = _parts(body)
    return _one(files[0], body).effort if len(files) == 1 and not parameters else len(body.data)


class _One:
    """A file as a body, and the codec that reads it."""

    def __init__(self, data: bytes, kind: str, limit: int) -> None:
        from score.codecs import registry  # it knows this codec, too

        self.body = Body(data, kind, limit=limit)
        self.codec = registry.choose(self.body)

    @property
    def effort(self) -> int:
        return self.codec.effort(self.body) or len(self.body.data)


def _one(file: tuple[str, bytes], body: Body) -> _One:
    kind, data = file
    return _One(data, "" if kind in (_KIND, "application/octet-stream") else kind, body.limit)


def decode(body: Body) -> Decoded:
    """Raises `InvalidForm`, and what the codec of a single file raises."""
    files, parameters = _parts(body)
    if len(files) == 1 and not parameters:
        found = _one(files[0], body)
        return found.codec.decode(found.body)
    values = tuple(base64.b64encode(data).decode("ascii") for _, data in files)
    items = Items(values, len(values) == 1, parameters)
    return Decoded(np.empty(0), NAME, top_k=parameters.get("top_k"), items=items)


def _parts(body: Body) -> tuple[list[tuple[str, bytes]], dict[str, Any]]:
    """The files, each with its content type, and the parameters."""
    first = body.data.split(b"\r\n", 1)[0]
    if not first.startswith(b"--") or not 3 <= len(first) <= _LONGEST_BOUNDARY + 2:
        raise InvalidForm("the form does not begin with its boundary")
    decoder = MultipartDecoder(first[2:], max_parts=MOST_PARTS)
    files: list[tuple[str, bytes]] = []
    parameters: dict[str, Any] = {}
    try:
        decoder.receive_data(body.data)
        decoder.receive_data(None)
        part: Field | File | None = None
        pieces: list[bytes] = []
        while not isinstance(event := decoder.next_event(), (Epilogue, NeedData)):
            if isinstance(event, (Field, File)):
                part, pieces = event, []
            elif isinstance(event, Data):
                pieces.append(event.data)
                if not event.more_data and part is not None:
                    _take(part, b"".join(pieces), files, parameters)
    except RequestEntityTooLarge:
        raise InvalidForm(f"the form has more than {MOST_PARTS:,} parts") from None
    except ValueError as error:
        raise InvalidForm(f"the form is not whole ({error})") from None
    if not files:
        raise InvalidForm("the form has no file")
    return files, parameters


def _take(part: Field | File, data: bytes, files: list[tuple[str, bytes]], parameters: dict[str, Any]) -> None:
    if isinstance(part, File):
        files.append((part.headers.get("content-type", "").partition(";")[0].strip().lower(), bytes(data)))
        return
    if part.name != "parameters":
        raise InvalidForm(f"the form has a field {part.name!r:.80}; there may be files, and `parameters`")
    try:
        given = orjson.loads(data)
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise InvalidForm("the field `parameters` is no JSON object")
    parameters |= given


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    return json_dialects.encode(outputs, decoded)
