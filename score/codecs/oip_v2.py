"""`oip-v2`: the Open Inference Protocol, version 2, as KServe, Triton and MLServer speak it, with binary tensors.

{"inputs": [{"name", "shape", "datatype", "data"}]} -> {"outputs": [{"name", "shape", "datatype", "data"}]}

With the header Inference-Header-Content-Length, the JSON is that long and the tensors follow as little-endian bytes, in
order, each as long as its parameter `binary_data_size` says; BF16 can only come so. BYTES are texts, or files such as
pictures: in JSON as base64.

Specification: kserve/open-inference-protocol, inference_rest.md; triton-inference-server/server,
docs/protocol/extension_binary_data.md and extension_classification.md.
"""

import base64
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import orjson

from score.codecs._oip_tensors import (
    BF16,
    BYTES,
    NAMES,
    NUMPY,
    Item,
    best_classes,
    byte_strings,
    datatype,
    numbers,
    rows_of,
    size_of,
    to_bytes,
)
from score.codecs._pieces import fragment
from score.codecs.base import PARAMETERS, Arrays, Body, Decoded, Encoded, Items, named, refuse_unknown
from score.codecs.json_dialects import array
from score.errors import InvalidTensor, NotNumeric, UnknownOutput

NAME = "oip-v2"
DIALECT = "v2"
TYPES = ("application/json", "application/vnd.sagemaker-triton.binary+json", "application/octet-stream")
PRIORITY = 10
EXAMPLES = (
    (
        '`{"inputs": [{"name", "shape", "datatype", "data"}]}`, also with binary data; `BYTES` for texts and files',
        "Triton's and KServe's clients",
        "the same protocol; a task's answers as `BYTES` of JSON",
    ),
)
LENGTH_HEADER = "Inference-Header-Content-Length"
SIZE_PARAMETER = "json-header-size"  # the same, as SageMaker has it in the content type
_OF_PROTOCOL = ("binary_data_output", "content_type", "priority", "timeout")  # parameters that are none of the model's


class Wanted(TypedDict):
    """How one output is asked for: as bytes, and as how many classes; 0 for the numbers themselves."""

    binary: bool
    classes: int


class Asked(TypedDict):
    """What a request says of its answer."""

    identifier: str | None
    binary: bool  # for outputs that do not say themselves
    outputs: dict[str, Wanted] | None  # by name; None for all


def accepts(body: Body) -> bool:
    if body.json_length is not None:
        return True
    if not body.is_json or b"y" not in body.data:  # "datatype" needs one: cheap to see, and numbers have none
        return False
    document = body.document
    inputs = document.get("inputs") if isinstance(document, dict) else None
    return isinstance(inputs, list) and bool(inputs) and all(_is_tensor(item) for item in inputs)


def _is_tensor(item: Any) -> bool:
    known = isinstance(item, dict) and {"name", "shape", "datatype"} <= item.keys()
    return known and isinstance(item["name"], str) and isinstance(item["datatype"], str)


def effort(body: Body) -> int | None:
    return body.json_length  # what follows is taken as it is


def decode(body: Body) -> Decoded:
    """Raises `InvalidJson`, `InvalidTensor`, `NotNumeric`, `RaggedRows` or `UnknownParameter`."""
    document = body.document
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, list) or not all(_is_tensor(item) for item in inputs):
        raise InvalidTensor(
            "'inputs' is not a list of objects with name, shape and datatype, the first and last as texts"
        )
    binary = memoryview(body.data)[body.json_length :] if body.json_length is not None else memoryview(b"")
    arrays: dict[str, np.ndarray] = {}
    texts: dict[str, list[Item]] = {}
    for item in inputs:
        name = str(item["name"])
        if name in arrays or name in texts:
            raise InvalidTensor(f"the input {name!r} comes twice")
        if item["datatype"] == BYTES:
            texts[name], binary = _texts(name, item, binary)
        else:
            arrays[name], binary = _numbers(name, item, binary)
    if binary:
        raise InvalidTensor(f"{len(binary)} bytes follow the last tensor")
    return decoded(arrays, texts, asked(document), of_model(_parameters(document)))


def of_model(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A request's parameters without those of the protocol."""
    return {name: value for name, value in parameters.items() if name not in _OF_PROTOCOL}


def decoded(
    arrays: dict[str, np.ndarray], texts: dict[str, list[Item]], wanted: Asked, parameters: dict[str, Any]
) -> Decoded:
    """A request's tensors and parameters, however they came. Raises `NotNumeric` or `UnknownParameter`."""
    if texts and arrays:
        raise NotNumeric(
            f"{', '.join(texts)} are texts and {', '.join(arrays)} numbers: a request has one or the other"
        )
    if texts:
        items = Items(rows_of(texts), single=False, parameters=parameters)
        return Decoded(np.empty(0), DIALECT, wanted, top_k=parameters.get("top_k"), items=items)
    refuse_unknown(parameters, (*PARAMETERS, *_OF_PROTOCOL))
    return Decoded(arrays, DIALECT, wanted, top_k=parameters.get("top_k"))


def _taken(name: str, item: dict[str, Any], binary: memoryview) -> tuple[memoryview | None, memoryview]:
    """An input's bytes, and those after it; none where its values are in the JSON. Raises `InvalidTensor`."""
    size = _parameters(item).get("binary_data_size")
    if size is None:
        if "data" not in item:
            raise InvalidTensor(f"{name}: it has no data")
        return None, binary
    if type(size) is not int or not 0 <= size <= len(binary):
        raise InvalidTensor(f"{name}: binary_data_size is {size!r:.40}, and {len(binary)} are left")
    return binary[:size], binary[size:]


def _numbers(name: str, item: dict[str, Any], binary: memoryview) -> tuple[np.ndarray, memoryview]:
    """One input, and the bytes after it."""
    shape, kind = item["shape"], str(item["datatype"])
    count = size_of(name, kind, shape)
    data, rest = _taken(name, item, binary)
    if data is not None:
        return numbers(name, kind, shape, data), rest
    if kind == BF16:
        raise InvalidTensor(f"{name}: BF16 comes as binary data only")
    values = _from_json(name, item["data"], NUMPY[kind])
    if values.size != count:
        raise InvalidTensor(f"{name}: the shape {shape} has {count} values, the data {values.size}")
    return values.reshape(shape), rest


def _texts(name: str, item: dict[str, Any], binary: memoryview) -> tuple[list[Item], memoryview]:
    """One input of texts or files, and the bytes after it."""
    count = size_of(name, BYTES, item["shape"])
    data, rest = _taken(name, item, binary)
    if data is not None:
        return [text_or_file(each) for each in byte_strings(name, count, data)], rest
    found = _flat(item["data"])
    if not all(isinstance(each, str) for each in found):
        raise InvalidTensor(f"{name}: BYTES are texts, and there is something else among its data")
    if len(found) != count:
        raise InvalidTensor(f"{name}: the shape {item['shape']} has {count} texts, the data {len(found)}")
    return found, rest


def text_or_file(data: bytes) -> Item:
    """Bytes as the text that they are, or as a file."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(data).decode()}


def _flat(data: Any) -> list[Any]:
    waiting, found = [data], []
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        else:
            found.append(item)
    return found


def _from_json(name: str, data: Any, code: str) -> np.ndarray:
    """Values in the datatype that was declared. Raises `InvalidTensor` where that changes an integer."""
    found, wanted = array(data, name), np.dtype(code)
    if wanted.kind in "iub" and found.size:
        with np.errstate(invalid="ignore"):
            cast = found.astype(wanted)
        if not np.array_equal(cast, found):
            raise InvalidTensor(f"{name}: the data are not all {NAMES[wanted]}")
        return cast
    with np.errstate(over="ignore"):
        return found.astype(wanted)


def _parameters(item: Any) -> dict[str, Any]:
    found = item.get("parameters")
    return found if isinstance(found, dict) else {}


def asked(document: dict[str, Any]) -> Asked:
    """What a request says of its answer. Raises `InvalidTensor`."""
    default = _parameters(document).get("binary_data_output") is True
    listed = document.get("outputs")
    outputs = None
    if isinstance(listed, list) and listed:
        if not all(isinstance(item, dict) and "name" in item for item in listed):
            raise InvalidTensor("'outputs' is not a list of objects with a name")
        outputs = {str(item["name"]): wanted(item, default) for item in listed}
    identifier = document.get("id")
    return Asked(identifier=str(identifier) if identifier is not None else None, binary=default, outputs=outputs)


def wanted(item: dict[str, Any], default: bool) -> Wanted:
    """What is asked of one output. Raises `InvalidTensor`."""
    given = _parameters(item)
    classes = given.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidTensor(f"{str(item['name'])[:80]}: classification is {classes!r:.40}, not a number of classes")
    return Wanted(binary=bool(given.get("binary_data", default)), classes=classes)


def chosen(outputs: Arrays, decoded: Decoded) -> list[tuple[str, np.ndarray, bool]]:
    """The outputs that a request asks for, as it asks for them: name, values, and whether they go as bytes. Raises
    `UnknownOutput` or `TopKUnavailable`."""
    said: Asked = decoded.asked or Asked(identifier=None, binary=False, outputs=None)
    found = named(outputs)
    unknown = [name for name in said["outputs"] or () if name not in found]
    if unknown:
        raise UnknownOutput(f"the model gives {', '.join(found)}; asked for was {', '.join(unknown)}")
    how = said["outputs"] or {name: Wanted(binary=said["binary"], classes=0) for name in found}
    return [
        (
            name,
            best_classes(name, found[name], each["classes"], decoded.served.labels) if each["classes"] else found[name],
            each["binary"],
        )
        for name, each in how.items()
    ]


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    """Raises `UnknownOutput` where the request names one that the model has not, or `TopKUnavailable`."""
    listed, tails = [], []
    for name, values, binary in chosen(outputs, decoded):
        item: dict[str, Any] = {"name": name, "datatype": datatype(values.dtype.str), "shape": list(values.shape)}
        if binary:
            tail = to_bytes(np.ascontiguousarray(values))
            item["parameters"] = {"binary_data_size": len(tail)}
            tails.append(tail)
        else:
            plain = values.dtype != np.float16 and values.dtype.kind != "U"
            flat = np.ascontiguousarray(values).reshape(-1)
            item["data"] = fragment(flat) if plain else flat.tolist()
        listed.append(item)
    served = decoded.served
    document: dict[str, Any] = {"model_name": served.name, "model_version": served.version, "outputs": listed}
    if decoded.asked and decoded.asked["identifier"] is not None:
        document["id"] = decoded.asked["identifier"]
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tails:
        return Encoded(head, "application/json")
    return Encoded(b"".join([head, *tails]), "application/octet-stream", {LENGTH_HEADER: str(len(head))})


def encode_answer(answer: Any, decoded: Decoded) -> Encoded:
    """What a task answers: embeddings as numbers, anything else as a text of JSON for each item."""
    return encode(as_tensor(answer), decoded)


def as_tensor(answer: Any) -> np.ndarray:
    """A task's answers as one output, a row for each item."""
    listed = answer if isinstance(answer, list) else [answer]
    vectors = all(isinstance(each, list) and each and all(type(x) is float for x in each) for each in listed)
    if vectors and len({len(each) for each in listed}) == 1:
        return np.asarray(listed, np.float32)
    return np.array([orjson.dumps(each).decode() for each in listed], dtype=np.str_)
