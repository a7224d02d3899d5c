"""`openai-embeddings`: texts as OpenAI's clients send them to `/v1/embeddings`, which alone says so.

{"model": name, "input": "text" or [...], "encoding_format": "float" or "base64"}
    -> {"object": "list", "data": [{"object": "embedding", "index", "embedding"}], "model", "usage"}

Specification: platform.openai.com/docs/api-reference/embeddings.
"""

import base64
from typing import Any

import numpy as np
import orjson

from score.codecs.base import Arrays, Body, Decoded, Encoded, Items
from score.errors import InvalidItem, InvalidParameter, ModelNotForRoute, UnknownBody, UnknownParameter

NAME = "openai-embeddings"
TYPES = ("application/json",)
PRIORITY = 30  # the last that an Accept header could mean
EXAMPLES = (
    (
        '`{"model", "input": "text" or [...]}` to `/v1/embeddings`',
        "OpenAI's clients",
        '`{"data": [{"embedding", "index"}], "usage"}`',
    ),
)
_KNOWN = ("input", "model", "encoding_format", "dimensions", "user")
_FORMATS = ("float", "base64")


def accepts(_body: Body) -> bool:
    return False


def effort(_body: Body) -> None:
    """Chosen by the path alone."""


def decode(body: Body) -> Decoded:
    """Raises `InvalidJson`, `UnknownBody`, `UnknownParameter`, `InvalidParameter` or `InvalidItem`."""
    document = body.document
    if not isinstance(document, dict) or "input" not in document:
        raise UnknownBody("the body has no 'input'", hint='Send {"model": "...", "input": ["a text", ...]}.')
    if unknown := [str(name) for name in document if name not in _KNOWN]:
        raise UnknownParameter(f"there is no parameter {unknown[0][:80]!r}; there is {', '.join(_KNOWN)}")
    wanted = document.get("encoding_format") or _FORMATS[0]
    if wanted not in _FORMATS:
        raise InvalidParameter(f"encoding_format is {wanted!r:.80}; it may be {' or '.join(_FORMATS)}")
    asked = {"format": wanted, "dimensions": document.get("dimensions")}
    return Decoded(np.empty(0), NAME, asked, items=Items(_texts(document["input"]), single=False, parameters={}))


def _texts(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidItem(
            "input is no text and no list of texts",
            hint="Send texts. Numbers of tokens are those of another model's tokenizer (in LangChain, set "
            "check_embedding_ctx_length=False).",
        )
    return tuple(texts)


def encode(_outputs: Arrays, decoded: Decoded) -> Encoded:
    """Raises `ModelNotForRoute`: only what answers texts with embeddings has any."""
    raise ModelNotForRoute(f"{decoded.served.name} does not answer texts with embeddings")


def encode_answer(answer: Any, decoded: Decoded) -> Encoded:
    """Raises `InvalidParameter` for another number of dimensions than the model's, or `ModelNotForRoute`."""
    try:
        vectors = np.asarray(answer, "<f4")
    except (TypeError, ValueError):
        vectors = np.empty(0)
    if vectors.ndim != 2:
        encode(vectors, decoded)
    size = vectors.shape[1]
    if decoded.asked["dimensions"] not in (None, size):
        raise InvalidParameter(
            f"dimensions is {decoded.asked['dimensions']!r:.40}; this model's embeddings have {size}"
        )
    if decoded.asked["format"] == "base64":
        shown = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        shown = list(vectors)
    assert decoded.items is not None
    count = decoded.served.tokens(decoded.items.values) if decoded.served.tokens is not None else 0
    document = {
        "object": "list",
        "data": [{"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(shown)],
        "model": decoded.served.name,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
    return Encoded(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), TYPES[0])
