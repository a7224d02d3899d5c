"""`json-lines`: a row or an item a line, as SageMaker's batch transforms send them; the answer has a line for each.

[5.1, 3.5]                     -> [0.1, 0.9]
{"x": [5.1], "y": [3.5]}       -> [0.1, 0.9]
{"inputs": "a fine day"}       -> {"label": "good", "score": 0.9}

Specification: jsonlines.org.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from score.codecs import json_dialects
from score.codecs.base import Arrays, Body, Decoded, Encoded, Items, Records, named
from score.errors import InvalidJson, UnknownBody, WrongInputs

NAME = "json-lines"
TYPES = ("application/jsonlines", "application/jsonl", "application/x-ndjson", "application/x-jsonlines")
PRIORITY = 20
EXAMPLES = (("`[...]` or `{name: ...}` a line, as `application/jsonlines`", "SageMaker's clients", "an answer a line"),)
_WRAPPED = (*json_dialects.WRAPPED, "features", "text")
MOST_LINES = 100_000


def accepts(body: Body) -> bool:
    return body.content_type in TYPES


def effort(body: Body) -> int | None:
    return len(body.data) if accepts(body) else None


def decode(body: Body) -> Decoded:
    """Raises `InvalidJson`, `UnknownBody`, `NotNumeric`, `RaggedRows` or `WrongInputs`."""
    lines = [line for line in body.data.splitlines() if line.strip()]
    if not lines or len(lines) > MOST_LINES:
        raise UnknownBody(f"the body has {len(lines):,} lines; from 1 to {MOST_LINES:,} are taken at once")
    rows = [_unwrapped(_parsed(line, at)) for at, line in enumerate(lines, 1)]
    if any(_is_item(row) for row in rows):
        return Decoded(np.empty(0), NAME, items=Items(tuple(rows), single=False, parameters={}))
    if all(isinstance(row, dict) for row in rows):
        return _by_name(rows)
    if any(isinstance(row, dict) for row in rows):
        raise UnknownBody("some lines are objects, and some are not")
    found = json_dialects.array(rows, "lines")
    json_dialects.refuse_mixed(rows, "lines")
    return Decoded(found, NAME)


def _parsed(line: bytes, at: int) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"line {at} is not valid JSON: {error.msg}") from None


def _unwrapped(row: Any) -> Any:
    """A row below the only key that it has."""
    if isinstance(row, dict) and len(row) == 1 and (name := next(iter(row))) in _WRAPPED:
        return row[name]
    return row


def _is_item(row: Any) -> bool:
    return isinstance(row, str) or (isinstance(row, dict) and any(isinstance(each, str) for each in row.values()))


def _by_name(rows: list[dict[str, Any]]) -> Decoded:
    for at, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            raise WrongInputs(f"line {at} has {', '.join(row) or 'no names'}; the first has {', '.join(rows[0])}")
        json_dialects.refuse_mixed(row, f"line {at}")
    return Decoded({name: json_dialects.array([row[name] for row in rows], name) for name in rows[0]}, NAME)


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    """NaN and infinity become null."""
    if isinstance(outputs, Records):
        return _lines([dict(row) for row in outputs.rows])
    found = named(outputs)
    if not isinstance(outputs, Mapping):
        return _lines(list(np.atleast_1d(outputs)))
    count = max((len(values) for values in found.values() if values.ndim), default=1)
    return _lines(
        [
            {name: values[at] if values.ndim and len(values) == count else values for name, values in found.items()}
            for at in range(count)
        ]
    )


def encode_answer(answer: Any, decoded: Decoded) -> Encoded:
    """What a task answers: a line for each item."""
    return _lines(answer if isinstance(answer, list) else [answer])


def _lines(rows: list[Any]) -> Encoded:
    lines = [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY, default=json_dialects.plain) for row in rows]
    return Encoded(b"".join(line + b"\n" for line in lines), TYPES[0])
