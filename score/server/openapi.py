"""`GET /swagger.json?version=3`: what this model takes and gives, as OpenAPI 3.0 (spec.openapis.org/oas/v3.0.3)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from score import __version__, errors
from score.codecs._oip_tensors import datatype
from score.codecs.base import ONLY
from score.codecs.json_dialects import BARE, WRAPPED
from score.errors import RequestError
from score.inference.signature import InputSpec, Signature
from score.server import openapi_routes
from score.server.routes.table import Row

Json = dict[str, Any]

_BINARY: Json = {"schema": {"type": "string", "format": "binary"}}
_FORM: Json = {
    "schema": {"type": "object", "properties": {"file": _BINARY["schema"], "parameters": {"type": "string"}}}
}
_FILES: Mapping[str, Json] = {
    "picture": {"image/png": _BINARY, "image/jpeg": _BINARY, "multipart/form-data": _FORM},
    "recording": {"audio/wav": _BINARY, "audio/flac": _BINARY, "multipart/form-data": _FORM},
}
_LARGEST_EXACT = 2**53  # in JSON as most readers take it


def description(
    signature: Signature,
    outputs: Mapping[str, tuple[str, list[int]]],
    task: Mapping[str, Any] | None = None,
    example: Mapping[str, Any] | None = None,
    rows: Iterable[Row] = (),
    names: Sequence[str] = (),
) -> Json:
    """The document. `outputs` are the dtype and the shape for one row, by name; none where they are not known. `task`
    is the task's card, of a model that has one, and `example` a body that it answers; `rows` are the routes beside
    `/score`, and `names` those of the models."""
    predict = _predict(signature, outputs, task, example)
    return _document(
        f"A PyTorch model on Azure ML. It {signature}.",
        {"/score": {"get": _card(), "post": predict}, "/score/{model}": _of_model(predict, names)},
        rows,
        names,
    )


def of_several(names: Sequence[str], rows: Iterable[Row]) -> Json:
    """The document of a server of several models; what each takes, its own card says."""
    predict = _predict(Signature((), ""), {}, None, None)
    predict["requestBody"]["content"]["application/json"] = {"schema": {"type": "object"}}
    predict["responses"]["200"]["content"]["application/json"] = {"schema": {}}
    listed: Json = {"schema": _object({"models": {"type": "array", "items": {"type": "object"}}})}
    card = _card() | {"responses": {"200": {"description": "The models", "content": {"application/json": listed}}}}
    about = f"{len(names)} PyTorch models on Azure ML: {', '.join(names)}."
    return _document(
        about, {"/score": {"get": card, "post": predict}, "/score/{model}": _of_model(predict, names)}, rows, names
    )


def _document(about: str, scored: Json, rows: Iterable[Row], names: Sequence[str]) -> Json:
    alive = {"operationId": "liveness", "summary": "Whether the server is up", "responses": _healthy()}
    return {
        "openapi": "3.0.3",
        "info": {"title": "Loadstone", "version": __version__, "description": about},
        "paths": {**scored, "/": {"get": alive}, **openapi_routes.paths(rows, names)},
        "components": {"schemas": {"Error": _error()}},
    }


def _of_model(predict: Json, names: Sequence[str]) -> Json:
    schema = {"type": "string", "enum": list(names)}
    name = {"name": "model", "in": "path", "required": True, "schema": schema}
    card = _card()
    card["responses"] |= _refusals()
    return {
        "get": card | {"operationId": "model_card_of", "parameters": [name]},
        "post": predict | {"operationId": "predict_with", "parameters": [name]},
    }


def _predict(
    signature: Signature,
    outputs: Mapping[str, tuple[str, list[int]]],
    task: Mapping[str, Any] | None,
    example: Mapping[str, Any] | None,
) -> Json:
    v2 = _v2_outputs(outputs)
    answers: Json = {"anyOf": [_object({"predictions": _predictions(outputs)}), _predictions(outputs), v2]}
    if task is not None:
        answers = {"description": f"As the task {task['name']} answers, bare or below `predictions`."}
    return {
        "operationId": "predict",
        "summary": "Predictions for the rows in the body, in the body's own dialect",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": _json_body(signature, task) | ({"example": example} if example else {}),
                "application/x-npy": _BINARY,
                "application/x-npz": _BINARY,
                **(_FILES.get(task["takes"], {}) if task is not None else {}),
            },
        },
        "responses": {
            "200": {
                "description": "The predictions",
                "content": {
                    "application/json": {"schema": answers},
                    "application/x-npy": _BINARY,
                    "application/x-npz": _BINARY,
                    "application/octet-stream": _BINARY,
                },
            },
            **_refusals(),
        },
    }


def _json_body(signature: Signature, task: Mapping[str, Any] | None) -> Json:
    if task is None:
        return {"schema": {"anyOf": _dialects(signature)}}
    item: Json = {"description": f"What {task['name']} takes ({task['takes']}), or a list of these"}
    known = {"type": "object", "properties": {name: {} for name in task["parameters"]}, "additionalProperties": False}
    asked = _object({"inputs": item})
    asked["properties"]["parameters"] = known
    return {"schema": {"anyOf": [asked, *_dialects(signature)]}}


def _card() -> Json:
    schema = {"type": "object", "required": ["model", "signature", "serving", "versions"]}
    content = {"application/json": {"schema": schema}}
    return {
        "operationId": "model_card",
        "summary": "What is served, what it takes, and how it is doing",
        "responses": {"200": {"description": "The model card", "content": content}},
    }


def _healthy() -> Json:
    return {"200": {"description": "It is up", "content": {"text/html": {"schema": {"type": "string"}}}}}


def _refusals() -> Json:
    """A response for each status that an error can have."""
    statuses: dict[int, list[str]] = {}
    for kind in errors.every_error():
        if issubclass(kind, RequestError):
            statuses.setdefault(kind.status, []).append(kind.code)
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        str(status): {"description": ", ".join(codes), "content": content} for status, codes in sorted(statuses.items())
    }


def _error() -> Json:
    text: Json = {"type": "string"}
    inner = _object({"code": text, "message": text, "hint": text, "docs": text, "request_id": text})
    return _object({"error": inner})


def _object(properties: Mapping[str, Json], **more: Any) -> Json:
    return {"type": "object", "required": list(properties), "properties": dict(properties), **more}


def _dialects(signature: Signature) -> list[Json]:
    """A schema for each way to put the inputs into JSON."""
    required = [spec for spec in signature.inputs if spec.required]
    named = _object({spec.name: _values(spec) for spec in required}, additionalProperties=False)
    named["properties"] |= {spec.name: _values(spec) for spec in signature.inputs}
    whole, table = named, named
    if len(required) == 1:
        whole, table = {"anyOf": [_values(required[0]), named]}, _table(required[0])
    keys = (*WRAPPED, *BARE)
    return [
        _object({key: whole if key in WRAPPED else table}, **{"not": {"anyOf": _required(set(keys) - {key})}})
        for key in keys
    ]


def _required(names: set[str]) -> list[Json]:
    return [{"required": [name]} for name in sorted(names)]


def _table(spec: InputSpec) -> Json:
    """A table split into columns, index and data."""
    found = _object({"data": _values(spec)})
    width = spec.shape[1] if spec.shape is not None and len(spec.shape) > 1 else None
    if width is not None:
        found["properties"]["columns"] = _nested((width,), {}) | {"nullable": True}
    return found


def _values(spec: InputSpec) -> Json:
    if spec.scalar:
        return {"type": {"py_int": "integer", "py_float": "number", "py_bool": "boolean"}[spec.dtype]}
    if spec.shape is None:
        return {"type": "array", "description": f"nested arrays of {spec.dtype}"}
    return _nested(spec.shape, _number(spec.dtype))


def _nested(shape: tuple[int | None, ...], element: Json) -> Json:
    schema = element
    for size in reversed(shape):
        bounds = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **bounds}
    return schema


def _number(name: str) -> Json:
    dtype = getattr(torch, name)
    if dtype == torch.bool:
        return {"type": "boolean"}
    if dtype.is_floating_point:
        limit = _largest(torch.finfo(dtype))
        return {"type": "number", "minimum": -limit, "maximum": limit}
    limits = torch.iinfo(dtype)
    least, most = max(limits.min, -_LARGEST_EXACT), min(limits.max, _LARGEST_EXACT)
    return {"type": "integer", "minimum": least, "maximum": most}


def _largest(info: torch.finfo) -> float:
    """The largest number that does not round to infinity: not quite half a step over the dtype's maximum."""
    step = info.eps * info.max / (2 - info.eps)
    return math.nextafter(info.max + step / 2, 0.0) if info.bits < 64 else info.max


def _predictions(outputs: Mapping[str, tuple[str, list[int]]]) -> Json:
    if not outputs:
        return {}
    named = {name: _output(dtype, shape) for name, (dtype, shape) in outputs.items()}
    return named[ONLY] if list(named) == [ONLY] else _object(named)


def _output(dtype: str, shape: list[int]) -> Json:
    """The first dimension is the batch's; what others are may depend on the input, so only their number is said."""
    kind = "boolean" if dtype == "bool" else "number" if np.dtype(dtype).kind == "f" else "integer"
    element: Json = {"type": kind, "nullable": True} if kind == "number" else {"type": kind}  # null stands for NaN
    for _ in shape:
        element = {"type": "array", "items": element}
    return element


def _v2_outputs(outputs: Mapping[str, tuple[str, list[int]]]) -> Json:
    said = ", ".join(f"{name}: {datatype(dtype)}" for name, (dtype, _) in outputs.items())
    item = _object({"name": {"type": "string"}, "datatype": {"type": "string"}, "shape": {"type": "array"}})
    return _object({"outputs": {"type": "array", "items": item, "description": said or "the model's outputs"}})
