"""The body formats: every module of this package that has a `NAME`.

To add one, add a file here with `NAME`, `TYPES`, `PRIORITY`, `accepts(body)`, `effort(body)`, `decode(body)` and
`encode(outputs, decoded)`. Of those that accept a body, the one with the highest priority decodes it.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import score.codecs
from score.codecs import json_dialects, json_items, json_lines, npy, oip_v2, openai_embeddings
from score.codecs._npy import MAGIC
from score.codecs.base import JSON_TYPES, Body, Codec, Decoded, Encoded
from score.errors import EmptyBody, NotAcceptable, UnsupportedMediaType

_OF_ANSWERS: dict[str, Callable[[Any, Decoded], Encoded]] = {
    module.NAME: module.encode_answer for module in (json_lines, oip_v2, openai_embeddings)
}
"""How a codec writes what a task answers, where that is not JSON as `json_items` has it."""


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
    if body.codec:
        return codecs()[body.codec]
    for codec in _told_by_beginning(body) or codecs().values():
        if codec.accepts(body):
            return codec
    raise UnsupportedMediaType(f"the body is {body.content_type or 'of no stated type'}; accepted are {_types()}")


_OF_ARRAYS: tuple[Any, ...] = (npy,)
_OF_NUMBERS: tuple[Any, ...] = (json_dialects,)
_OF_OBJECTS: tuple[Any, ...] = (oip_v2, json_items, json_dialects)


def _told_by_beginning(body: Body) -> tuple[Codec, ...]:
    """The only ones, in their order, that can take what begins as an array, or as a JSON object, and does not say that
    it is something else; an object without any text is of numbers alone. None where all have to be asked."""
    data = body.data
    if data.startswith(MAGIC) and body.content_type in npy.TYPES:
        return _OF_ARRAYS
    if body.content_type not in JSON_TYPES or body.json_length is not None or not data.startswith(b"{"):
        return ()
    key = data.find(b'"', data.find(b'"') + 1)  # where the first ends
    return _OF_OBJECTS if data.find(b'"', key + 1) > 0 else _OF_NUMBERS


def effort(body: Body) -> int:
    """How many bytes have to be parsed or unpacked to decode a body."""
    if body.codec:
        return codecs()[body.codec].effort(body) or len(body.data)
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
    liking = _liking(accept)
    best, quality = codec, liking(codec.TYPES)
    for other in reversed(codecs().values()):  # the plainest first
        if (found := liking(other.TYPES)) > quality:
            best, quality = other, found
    if quality <= 0:
        raise NotAcceptable(f"the request accepts {accept}; answers can be {_types()}")
    return best


def encode_answer(codec: Codec, answer: Any, decoded: Decoded, accept: str | None, *, own: bool = False) -> Encoded:
    """What a task answered, or a model's `own` postprocess, as the request's sender expects it: JSON, unless the codec
    has a way of its own.

    Raises `NotAcceptable`.
    """
    if encoder := _OF_ANSWERS.get(codec.NAME):
        return encoder(answer, decoded)
    if accept and not _liking(accept)(json_items.TYPES):
        raise NotAcceptable(f"the request accepts {accept}; this model's answers are {json_items.TYPES[0]}")
    return json_items.encode_answer(answer, decoded, own=own)


def _liking(accept: str) -> Callable[[Sequence[str]], float]:
    """How much an Accept header likes the best of some content types, from 0 to 1."""
    # Imported here: the process that decodes large bodies needs none of it, and it takes 7 MB.
    from werkzeug.datastructures import MIMEAccept
    from werkzeug.http import parse_accept_header

    wanted = parse_accept_header(accept, MIMEAccept)
    return lambda types: max(wanted.quality(kind) for kind in types)


def _types() -> str:
    return ", ".join(sorted({kind for codec in codecs().values() for kind in codec.TYPES}))
