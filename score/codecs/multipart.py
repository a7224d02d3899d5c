"""`multipart`: a form with one or more files, as browsers and `curl -F` send it; and with `parameters`, as JSON.

One file alone is what it is by itself: a picture, an array. Several, or one with parameters, are items of the model's
task. Specification: RFC 7578; read by werkzeug.
"""

import base64
from typing import Any

import numpy as np

from score.codecs import json_dialects
from score.codecs.base import Arrays, Body, Decoded, Encoded, Items

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
KIND = "multipart/form-data"


def accepts(body: Body) -> bool:
    return body.content_type == KIND


def get_ready() -> None:
    """Import what reads forms, for processes that are forked: werkzeug takes 7 MB, and what decodes large bodies needs
    it for nothing else."""
    from score.codecs import _form  # noqa: F401


def _read(body: Body) -> tuple[list[tuple[str, bytes]], dict[str, Any]]:
    """The files, each with its content type, and the parameters. Raises `InvalidForm`."""
    from score.codecs import _form

    return _form.parts(body.data)


def effort(body: Body) -> int | None:
    """The parts are taken as they are; what they hold is decoded where it is one file, as that would be."""
    if body.content_type != KIND:
        return None
    files, parameters = _read(body)
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
    return _One(data, "" if kind in (KIND, "application/octet-stream") else kind, body.limit)


def decode(body: Body) -> Decoded:
    """Raises `InvalidForm`, and what the codec of a single file raises."""
    files, parameters = _read(body)
    if len(files) == 1 and not parameters:
        found = _one(files[0], body)
        return found.codec.decode(found.body)
    values = tuple(base64.b64encode(data).decode("ascii") for _, data in files)
    items = Items(values, len(values) == 1, parameters)
    return Decoded(np.empty(0), NAME, top_k=parameters.get("top_k"), items=items)


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    return json_dialects.encode(outputs, decoded)
