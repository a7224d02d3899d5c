"""`items`: JSON of texts, pairs and pictures, as Hugging Face's, Azure's and MLflow's clients send them.

{"inputs": "text" or [...] or {"question", "context"}, "parameters": {...}}         -> as the pipeline answers
{"input_data": {"input_string": [...], "parameters": {...}}}, {"input_data": [...]} -> [...]
{"input_data": {"columns": ["text"], "index": [...], "data": [[...]]}}              -> [...]
{"dataframe_split": {...}}                                                          -> [...]
{"dataframe_records": [...]}, {"instances": [...]}, {"data": [...]}                 -> {"predictions": [...]}

What an item may be is for the model's task to say; a model without one takes texts where it has a tokenizer.
"""

from typing import Any

import numpy as np
import orjson

from score.codecs import json_dialects
from score.codecs.base import Arrays, Body, Decoded, Encoded, Items
from score.codecs.json_dialects import BARE, BESIDE, RECORDS, WRAPPED, refuse_misplaced, wrapped
from score.errors import UnknownBody, UnknownParameter

NAME = "items"
TYPES = ("application/json",)
PRIORITY = 5  # before numbers, which have no quotes but their names'
EXAMPLES = (
    (
        '`{"inputs": "text" or [...] or {"question", "context"}, "parameters": {...}}`',
        "Hugging Face's clients",
        "as the pipeline answers",
    ),
    (
        '`{"input_data": {"input_string": [...], "parameters": {...}}}`, `{"input_data": [...]}`',
        "Azure's model catalog",
        "a list of answers",
    ),
    (
        '`{"input_data": {"columns": ["text"], "index", "data": [[...]]}}`, pictures in base64 too',
        "Azure's model catalog",
        "a list of answers",
    ),
    (
        '`{"dataframe_records": [...]}`, `{"instances": ["text", ...]}`, `{"data": ["text", ...]}`',
        "MLflow, TensorFlow Serving",
        '`{"predictions": [...]}`',
    ),
)
_DIALECTS = (*WRAPPED, *BARE, RECORDS)
_QUOTES = 4  # of a body with a text: its name has two of its own
MOST_ITEMS = 10_000


def accepts(body: Body) -> bool:
    if not body.is_json or body.json_length is not None or body.data.count(b'"') < _QUOTES:
        return False
    document = body.document
    found = [dialect for dialect in _DIALECTS if dialect in document] if isinstance(document, dict) else []
    return len(found) == 1 and _has_text(document[found[0]])


def _has_text(value: Any) -> bool:
    """Whether there is a text among a value's items, or their parts; numbers are followed to their first only."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            return True
        if isinstance(item, dict):
            waiting.extend(child for name, child in item.items() if name not in ("columns", "index", *BESIDE))
        elif isinstance(item, list):
            waiting.extend(item if item and isinstance(item[0], (list, dict, str)) else item[:1])
    return False


def effort(body: Body) -> None:
    """Told by its beginning, it is JSON."""


def decode(body: Body) -> Decoded:
    """Raises `UnknownBody` or `UnknownParameter`."""
    document = body.document
    dialect = next(dialect for dialect in _DIALECTS if dialect in document)
    refuse_misplaced(document)
    value, parameters = document[dialect], _parameters(document)
    if isinstance(value, dict) and "input_string" in value:  # Azure's catalog
        parameters |= _parameters(value)
        value = value["input_string"]
    single = isinstance(value, str) or (isinstance(value, dict) and not _is_table(value, dialect))
    if not single and not isinstance(value, (list, dict)):
        raise UnknownBody(f"{dialect} is no text, list or object")
    listed = [value] if single else _listed(value, dialect)
    if len(listed) > MOST_ITEMS:
        raise UnknownBody(f"{dialect} has {len(listed):,} items; at most {MOST_ITEMS:,} are taken at once")
    items = Items(tuple(listed), single and dialect == "inputs", parameters)
    return Decoded(np.empty(0), dialect, top_k=parameters.get("top_k"), items=items)


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in BESIDE:
        given = document.get(name) or {}
        if not isinstance(given, dict):
            raise UnknownParameter(f"{name} is not an object of parameters")
        found |= given
    return found


def _is_table(value: dict[str, Any], dialect: str) -> bool:
    """Columns by name, or split into columns and data; else an object is one item, such as a question and its
    context."""
    columns = bool(value) and dialect != "inputs" and all(isinstance(each, list) for each in value.values())
    return "data" in value or columns


def _listed(value: Any, dialect: str) -> list[Any]:
    """One item a row: the only column's value, or an object of all."""
    if isinstance(value, list):
        return [_only(item) if dialect in (RECORDS, "instances") else item for item in value]
    if "data" not in value:
        names, columns = list(value), list(value.values())
        if len({len(column) for column in columns}) != 1:
            raise UnknownBody(f"the columns of {dialect} have different lengths")
        return [_only(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
    names, rows = value.get("columns"), value["data"]
    if not isinstance(rows, list):
        raise UnknownBody(f"{dialect}.data is not a list of rows")
    if names is None:
        return [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    if not isinstance(names, list) or any(not isinstance(row, list) or len(row) != len(names) for row in rows):
        raise UnknownBody(f"the rows of {dialect}.data do not have a value for each of its columns")
    return [_only(dict(zip(map(str, names), row, strict=True))) for row in rows]


def _only(row: Any) -> Any:
    """The value of a row with one column."""
    return next(iter(row.values())) if isinstance(row, dict) and len(row) == 1 else row


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    """A model's own outputs, of one that has no task: as numbers in the same dialect get them."""
    return json_dialects.encode(outputs, decoded)


def encode_answer(answer: Any, decoded: Decoded, *, own: bool = False) -> Encoded:
    """What a task answers with, which JSON has, as the body's sender expects it: bare, or below `predictions`; what a
    model's `own` code answers is where its numbers would be."""
    bare = (decoded.dialect in BARE) if own else decoded.dialect in (*BARE, "inputs", "image", "audio", "multipart")
    document = answer if bare else wrapped(answer, decoded.dialect)
    return Encoded(orjson.dumps(document), TYPES[0])
