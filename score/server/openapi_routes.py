"""The routes of the tables as OpenAPI describes them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from score.server.api import MLFLOW, OIP_V2, OPENAI, SCORE, TF, TORCHSERVE, VERTEX, Api
from score.server.routes.table import Page, Row

Json = dict[str, Any]
_TEXT: Json = {"type": "string"}
_JSON = "application/json"
_PARAMETER = re.compile(r"{(\w+)}")
_TENSOR: Json = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": _TEXT,
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": _TEXT,
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


_TENSORS: Json = {"type": "array", "items": _TENSOR}
_ROWS: Json = {"type": "array", "items": {}}
_ERRORS: Mapping[Api, Json] = {
    SCORE: {"$ref": "#/components/schemas/Error"},
    VERTEX: {"$ref": "#/components/schemas/Error"},
    OIP_V2: _object(error=_TEXT),
    TF: _object(error=_TEXT),
    OPENAI: _object(error=_object(message=_TEXT, type=_TEXT, code=_TEXT)),
    MLFLOW: _object(error_code=_TEXT, message=_TEXT),
    TORCHSERVE: _object(code={"type": "integer"}, type=_TEXT, message=_TEXT),
}
_BODIES: Mapping[Api, tuple[Json, Json]] = {
    OIP_V2: (_object(inputs=_TENSORS), _object(model_name=_TEXT, outputs=_TENSORS)),
    TF: (
        {"anyOf": [_object(instances=_ROWS), _object(inputs={})]},
        {"anyOf": [_object(predictions={}), _object(outputs={})]},
    ),
    OPENAI: (_object(input={"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}), _object(data=_ROWS, usage={})),
    MLFLOW: ({"anyOf": [_object(inputs={}), _object(dataframe_split={}), _ROWS]}, _object(predictions={})),
    TORCHSERVE: ({"anyOf": [_object(data={}), _ROWS]}, {}),
    VERTEX: (_object(instances=_ROWS), _object(predictions={})),
}
"""What a protocol's predictions take and give; the values are as the model's own description says."""


def paths(rows: Iterable[Row], names: Sequence[str]) -> Json:
    """An item for each path; `names` are those of the models."""
    found: Json = {}
    for row in rows:
        item = found.setdefault(row.path, {})
        for method in row.methods:
            item[method.lower()] = _operation(row, method, names)
    return found


def _operation(row: Row, method: str, names: Sequence[str]) -> Json:
    named = _PARAMETER.findall(row.path)
    slug = re.sub(r"\W+", "_", row.path).strip("_")
    operation: Json = {
        "operationId": f"{method.lower()}_{slug}",
        "summary": row.summary,
        "tags": [row.api.name],
        "responses": {"200": _answer(row), "default": _error(row.api)},
    }
    if named:
        operation["parameters"] = [_parameter(name, names) for name in named]
    if not isinstance(row, Page):
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": _BODIES[row.api][0]}}}
    elif method == "POST":
        operation["requestBody"] = {"content": {_JSON: {"schema": {"type": "object"}}}}
    return operation


def _parameter(name: str, names: Sequence[str]) -> Json:
    schema = _TEXT | {"enum": list(names)} if name == "model" else _TEXT
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _answer(row: Row) -> Json:
    kind = row.kind if isinstance(row, Page) else _JSON
    schema: Json = {} if isinstance(row, Page) else _BODIES[row.api][1]
    return {"description": row.summary, "content": {kind: {"schema": schema}}}


def _error(api: Api) -> Json:
    return {"description": "An error, as this protocol has it", "content": {_JSON: {"schema": _ERRORS[api]}}}
