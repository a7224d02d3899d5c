"""`json`: the dialects of Azure's samples, MLflow, TensorFlow Serving and Azure's MLflow endpoints.

{"data": [...]}                                       -> {"predictions": [...]}
{"inputs": [...]}, {"inputs": {name: [...]}}          -> {"predictions": [...]}
{"instances": [...]}, {"instances": [{name: ...}]}    -> {"predictions": [...]}
{"input_data": ...}, {"dataframe_split": {...}}       -> [...]
{"dataframe_records": [{column: ...}, ...]}           -> {"predictions": [...]}
"""

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from score.codecs import _simdjson
from score.codecs._pieces import fragment
from score.codecs.base import PARAMETERS, Arrays, Body, Decoded, Encoded, Records, refuse_unknown
from score.errors import NotNumeric, RaggedRows, UnknownBody, UnknownParameter, WrongInputs

NAME = "json"
TYPES = ("application/json",)
PRIORITY = 0
EXAMPLES = (
    ('`{"data": [...]}`', "Azure's samples", '`{"predictions": [...]}`'),
    (
        '`{"inputs": [...]}`, `{"inputs": {name: [...]}}`, `{"instances": [...]}`',
        "MLflow, TensorFlow Serving",
        '`{"predictions": [...]}`',
    ),
    (
        '`{"input_data": {"columns", "index", "data"}}`, `{"dataframe_split": {...}}`',
        "Azure's MLflow endpoints",
        "a list of predictions",
    ),
)
BARE = ("input_data", "dataframe_split")  # dialects whose answer is a bare list
RECORDS = "dataframe_records"
# Dialects that a path asks for, whatever the body's own is.
PREDICTIONS = "predictions"  # as MLflow answers everything
TF_ROWS, TF_COLUMNS = "tf-rows", "tf-columns"  # as TensorFlow Serving answers `instances`, and `inputs`
BESIDE = ("parameters", "params")
WRAPPED = ("data", "inputs", "instances")
_DIALECTS = (*WRAPPED, *BARE, RECORDS)
_UNSIGNED = 2.0**63  # integers from here on have no signed type
MAX_DEPTH = 32  # tensors of more dimensions do not exist in practice; numpy stops at 64


def accepts(body: Body) -> bool:
    return body.is_json


def effort(body: Body) -> int:
    return len(body.data)


def decode(body: Body) -> Decoded:
    """Raises `InvalidJson`, `UnknownBody`, `NotNumeric`, `RaggedRows` or `WrongInputs`."""
    if quick := _simdjson.read(body.data, WRAPPED):
        return Decoded(quick[1], quick[0])
    document = body.document
    if not isinstance(document, dict):
        raise UnknownBody(f"the body is a JSON {_kind(document)}, not an object", hint=_hint_for(document))
    if len(document) == 1 and body.data.count(b'"') == 2:  # no text is anywhere but its key
        ((key, value),) = document.items()
        if key in WRAPPED and isinstance(value, list):
            made = _numbers(value, key)
            if _may_have_booleans(body.data):
                refuse_mixed(value, key)
            return Decoded(made, key)
    found = [key for key in document if key in _DIALECTS]
    if len(found) > 1:
        raise UnknownBody(f"the body has {' and '.join(map(repr, found))}, which are different ways to say the same")
    if found:
        arrays, columns = _arrays(found[0], document[found[0]])
        if _may_have_booleans(body.data):
            for where, value in _sources(found[0], document[found[0]]):
                refuse_mixed(value, where)
        most = _asked(document).get("top_k") if len(document) > 1 else None
        return Decoded(arrays, found[0], top_k=most, columns=columns)
    keys = ", ".join(map(repr, list(document)[:6])) or "no keys"
    raise UnknownBody(
        f"the body has {keys}, and none of 'data', 'inputs', 'instances', 'input_data', 'dataframe_split'"
    )


def _asked(document: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for beside its inputs: `parameters`, as Hugging Face has it, or MLflow's `params`. A word
    that is nearly one of these is a mistake, and so is a parameter that stands outside of them."""
    asked: dict[str, Any] = {}
    for name in (name for name in BESIDE if name in document):
        if not isinstance(document[name], dict):
            raise UnknownParameter(f"{name} is a {_kind(document[name])}, not an object of parameters")
        refuse_unknown(document[name])
        asked |= document[name]
    refuse_misplaced(document)
    return asked


def refuse_misplaced(document: Mapping[str, Any]) -> None:
    """Raise `UnknownParameter` for a parameter that stands outside of `parameters`, or a misspelt one of these."""
    for name in document:
        if name not in (*BESIDE, *_DIALECTS) and difflib.get_close_matches(name, (*BESIDE, *PARAMETERS), n=1):
            refuse_unknown((name,), BESIDE)


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    """NaN and infinity become null, since JSON has neither."""
    shown: Any = outputs
    if isinstance(outputs, np.ndarray):
        shown = fragment(outputs)
    elif isinstance(outputs, Records):
        shown = [{name: fragment(values) for name, values in row.items()} for row in outputs.rows]
    elif isinstance(outputs, Mapping) and decoded.dialect == TF_ROWS and (rows := _by_rows(outputs)) is not None:
        shown = rows
    elif isinstance(outputs, Mapping):
        shown = {name: fragment(values) for name, values in outputs.items()}
    document = wrapped(shown, decoded.dialect)
    return Encoded(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY, default=plain), "application/json")


def wrapped(shown: Any, dialect: str) -> Any:
    """An answer below the key where the body's sender looks for it."""
    if dialect in BARE:
        return shown
    return {"outputs" if dialect == TF_COLUMNS else "predictions": shown}


def _by_rows(outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]] | None:
    """Several outputs as an object a row; None where they have not as many rows each."""
    if len({values.shape[:1] for values in outputs.values()}) != 1 or not next(iter(outputs.values())).ndim:
        return None
    rows = zip(*outputs.values(), strict=True)
    return [dict(zip(outputs, row, strict=True)) for row in rows]


def plain(value: Any) -> Any:
    """What orjson can't take as it is: arrays that are not contiguous or of a dtype it does not know."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} in an answer")


def _arrays(dialect: str, value: Any) -> tuple[Arrays, tuple[str, ...]]:
    """Arrays; and of a table, which is one array, the names of its columns."""
    if dialect in BARE:
        return _frame(dialect, value)
    if dialect == RECORDS:
        return _table(value)
    if isinstance(value, dict):
        return {name: array(item, name) for name, item in value.items()}, ()
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return _records(dialect, value), ()
    return array(value, dialect), ()


def _table(rows: Any) -> tuple[Arrays, tuple[str, ...]]:
    """Records of numbers as one array with a column for each name; of lists, as an array for each name."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
        raise UnknownBody(f"{RECORDS} is no list of objects")
    found = _records(RECORDS, rows)
    if any(values.ndim > 1 for values in found.values()):
        return found, ()
    if len({values.dtype.kind == "b" for values in found.values()}) > 1:
        raise NotNumeric(f"{RECORDS} has booleans among its numbers")
    return np.stack(list(found.values()), axis=1), tuple(found)


def _records(dialect: str, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """One object a row, with a value for each input."""
    names = list(rows[0])
    for at, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise WrongInputs(
                f"{dialect}[{at}] has {', '.join(row) or 'no names'}; the first row has {', '.join(names)}"
            )
    return {name: array([row[name] for row in rows], f"{dialect}[...].{name}") for name in names}


def _frame(dialect: str, value: Any) -> tuple[Arrays, tuple[str, ...]]:
    """A table split into columns, index and data; or, as MLflow also allows, an array or columns by name."""
    if not isinstance(value, dict):
        return array(value, dialect), ()
    if "data" not in value:
        named = {name: item for name, item in value.items() if name not in ("columns", "index")}
        return {name: array(item, f"{dialect}.{name}") for name, item in named.items()}, ()
    columns, data = value.get("columns"), value["data"]
    if columns is not None and not isinstance(columns, list):
        raise UnknownBody(f"{dialect}.columns is a {_kind(columns)}, not a list of names")
    if isinstance(columns, list) and isinstance(data, list):
        for at, row in enumerate(data):
            if isinstance(row, list) and len(row) != len(columns):
                raise RaggedRows(f"{dialect}.data[{at}] has {len(row)} values for {len(columns)} columns")
    return array(data, f"{dialect}.data"), tuple(map(str, columns or ()))


MOST_TEXT = 64_000_000  # bytes of an array of texts, in which each takes as much as the longest


def _refuse_texts(value: Any, where: str) -> None:
    """Raise `NotNumeric` for texts of which one makes all others as long: four bytes a character, in every place."""
    if not isinstance(value, list):
        return
    longest = count = 0
    waiting: list[Any] = [value]
    while waiting:
        items = waiting.pop()
        count += len(items)
        for item in items:
            kind = type(item)
            if kind is str:
                longest = max(longest, len(item))
            elif kind is list:
                waiting.append(item)
            elif not longest:
                break  # a list that begins with a number is one of numbers; others are told when it is made an array
    if 4 * longest * count > MOST_TEXT:
        raise NotNumeric(f"{where}: {count:,} values beside a text of {longest:,} characters")


def array(value: Any, where: str) -> np.ndarray:
    """Nested lists of numbers, or of texts, as an array. Raises `NotNumeric` or `RaggedRows`, saying where."""
    _refuse_texts(value, where)
    return _numbers(value, where)


def _numbers(value: Any, where: str) -> np.ndarray:
    first = _first_leaf(value, where)
    try:
        found = np.asarray(value)
    except ValueError:
        raise RaggedRows(f"{where}: {_first_ragged(value, where)}") from None
    # Of integers alone: those of a list that begins with a float are floats.
    if type(first) is int and found.dtype == np.float64 and np.maximum.reduce(found, axis=None) >= _UNSIGNED:
        return _whole(value, found)
    if found.dtype.kind in "biuf":
        return found
    if found.dtype.kind == "U" and found.ndim == 1 and all(isinstance(item, str) for item in value):
        return found  # texts, which some models take
    raise NotNumeric(_first_strange(value, where))


def _whole(value: Any, found: np.ndarray) -> np.ndarray:
    """numpy makes floats of integers of which only some need an unsigned type, and so rounds them."""
    leaves = np.asarray(value, dtype=object)
    fit = all(type(leaf) is int and 0 <= leaf < 1 << 64 for leaf in leaves.flat)
    return leaves.astype(np.uint64) if fit else found


def _may_have_booleans(data: bytes) -> bool:
    """Looked for by letters first, which is much faster than by words."""
    return (b"r" in data and b"true" in data) or (b"l" in data and b"false" in data)


def _sources(dialect: str, value: Any) -> list[tuple[str, Any]]:
    """What arrays are made of, with its place: everything but a table's columns and index."""
    if dialect == RECORDS:
        return [(f"{dialect}[{at}].{name}", item) for at, row in enumerate(value) for name, item in row.items()]
    if dialect in BARE and isinstance(value, dict):
        names = ["data"] if "data" in value else [name for name in value if name not in ("columns", "index")]
        return [(f"{dialect}.{name}", value[name]) for name in names]
    return [(dialect, value)]


def refuse_mixed(value: Any, where: str) -> None:
    """numpy takes `[0.5, true]` for two numbers."""
    waiting = [(where, value)]
    while waiting:
        place, item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend((f"{place}.{name}", child) for name, child in item.items())
        elif isinstance(item, list):
            kinds = {type(child) for child in item}
            if bool in kinds and kinds & {int, float}:
                raise NotNumeric(f"{place} has booleans among its numbers")
            waiting.extend(
                (f"{place}[{at}]", child) for at, child in enumerate(item) if isinstance(child, (list, dict))
            )


def _first_leaf(value: Any, where: str) -> Any:
    """What is no list, or an empty one, at the first place. Raises `NotNumeric` for what is nested too deep."""
    depth, item = 0, value
    while isinstance(item, list) and item:
        depth, item = depth + 1, item[0]
    if depth > MAX_DEPTH:
        raise NotNumeric(f"{where}: lists nested {depth} deep; a tensor has at most {MAX_DEPTH} dimensions here")
    return item


def _first_ragged(value: Any, where: str) -> str:
    """The first two neighbours of different length, by place."""
    level: list[tuple[str, Any]] = [(where, value)]
    while level:
        lists = [(place, item) for place, item in level if isinstance(item, list)]
        if lists and len(lists) < len(level):
            place = next(place for place, item in level if not isinstance(item, list))
            return f"{place} is a {_kind(dict(level)[place])}, its neighbour a list"
        for (place, item), (other, first) in zip(lists[1:], lists[:1] * len(lists), strict=False):
            if len(item) != len(first):
                return f"{place} has {len(item)} values, {other} has {len(first)}"
        level = [(f"{place}[{at}]", child) for place, item in lists for at, child in enumerate(item)]
    return "rows of different lengths"


def _first_strange(value: Any, where: str) -> str:
    """The first thing that is no number, by place."""
    waiting: list[tuple[str, Any]] = [(where, value)]
    while waiting:
        place, item = waiting.pop()
        if isinstance(item, list):
            waiting.extend((f"{place}[{at}]", item[at]) for at in range(len(item) - 1, -1, -1))
        elif isinstance(item, int) and not isinstance(item, bool) and abs(item) >= 1 << 63:
            return f"{place} is {item}, an integer of more than 64 bits"
        elif not isinstance(item, (int, float)):
            return f"{place} is {'null' if item is None else f'a {_kind(item)}'} where a number belongs"
    return f"{where} holds no numbers"


def _kind(value: Any) -> str:
    names: Mapping[type, str] = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _hint_for(document: Any) -> str:
    if isinstance(document, list):
        return 'Wrap it: {"data": [...]}.'
    if isinstance(document, str) and document.lstrip().startswith(("{", "[")):
        return "It was encoded twice: send json.dumps(document) as the body, or json=document, and not both."
    return UnknownBody.hint
