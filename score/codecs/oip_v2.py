"""`oip-v2`: the Open Inference Protocol, version 2, as KServe, Triton and MLServer speak it, with binary tensors.

{"inputs": [{"name", "shape", "datatype", "data"}]} -> {"outputs": [{"name", "shape", "datatype", "data"}]}

With the header Inference-Header-Content-Length, the JSON is that long and the tensors follow as little-endian bytes, in
order, each as long as its parameter `binary_data_size` says; BF16 can only come so.

Specification: kserve/open-inference-protocol, inference_rest.md; triton-inference-server/server,
docs/protocol/extension_binary_data.md.
"""

import math
from typing import Any, TypedDict

import numpy as np
import orjson

from score.codecs._pieces import fragment
from score.codecs.base import PARAMETERS, Arrays, Body, Decoded, Encoded, named, refuse_unknown
from score.codecs.json_dialects import MAX_DEPTH, array
from score.errors import InvalidTensor, NotNumeric, UnknownOutput

NAME = "oip-v2"
TYPES = ("application/json", "application/vnd.sagemaker-triton.binary+json", "application/octet-stream")
PRIORITY = 10
EXAMPLES = (
    (
        '`{"inputs": [{"name", "shape", "datatype", "data"}]}`, also with binary data behind',
        "Triton's and KServe's clients",
        "the same protocol; a task's answers as `BYTES` of JSON",
    ),
)
LENGTH_HEADER = "Inference-Header-Content-Length"

_NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8",
    "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _NUMPY.items()}


class _Asked(TypedDict):
    """What a request says of its answer."""

    identifier: str | None
    binary: bool  # for outputs that do not say themselves
    outputs: dict[str, bool] | None  # by name, whether it is to be binary; None for all


def datatype(dtype: str) -> str:
    """The protocol's name for a numpy dtype; text is BYTES."""
    return "BYTES" if np.dtype(dtype).kind == "U" else _NAMES[np.dtype(dtype)]


def accepts(body: Body) -> bool:
    if body.json_length is not None:
        return True
    if not body.is_json or b"y" not in body.data:  # "datatype" needs one: cheap to see, and numbers have none
        return False
    document = body.document
    inputs = document.get("inputs") if isinstance(document, dict) else None
    return isinstance(inputs, list) and bool(inputs) and all(_is_tensor(item) for item in inputs)


def _is_tensor(item: Any) -> bool:
    return isinstance(item, dict) and {"name", "shape", "datatype"} <= item.keys()


def effort(body: Body) -> int | None:
    return body.json_length  # what follows is taken as it is


def decode(body: Body) -> Decoded:
    """Raises `InvalidJson`, `InvalidTensor`, `NotNumeric` or `RaggedRows`."""
    document = body.document
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, list) or not all(_is_tensor(item) for item in inputs):
        raise InvalidTensor("'inputs' is not a list of objects with name, shape and datatype")
    binary = memoryview(body.data)[body.json_length :] if body.json_length is not None else memoryview(b"")
    arrays: dict[str, np.ndarray] = {}
    for item in inputs:
        name = str(item["name"])
        if name in arrays:
            raise InvalidTensor(f"the input {name!r} comes twice")
        arrays[name], binary = _tensor(name, item, binary)
    if binary:
        raise InvalidTensor(f"{len(binary)} bytes follow the last tensor")
    return Decoded(arrays, "v2", _asked(document), top_k=_parameters(document).get("top_k"))


def _tensor(name: str, item: dict[str, Any], binary: memoryview) -> tuple[np.ndarray, memoryview]:
    """One input, and the bytes after it."""
    shape, datatype = item["shape"], str(item["datatype"])
    if not isinstance(shape, list) or len(shape) > MAX_DEPTH:
        raise InvalidTensor(f"{name}: the shape is not a list of at most {MAX_DEPTH} sizes")
    if not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise InvalidTensor(f"{name}: the shape {shape!r:.200} is not a list of sizes")
    if datatype not in (*_NUMPY, "BF16"):
        raise NotNumeric(f"{name}: datatype {datatype}; numbers are {', '.join([*_NUMPY, 'BF16'])}")
    size = _parameters(item).get("binary_data_size")
    count = math.prod(shape)
    if size is None:
        if datatype == "BF16" or "data" not in item:
            raise InvalidTensor(f"{name}: {'BF16 comes as binary data only' if 'data' in item else 'it has no data'}")
        values = _from_json(name, item["data"], _NUMPY[datatype])
    else:
        kind = np.dtype("<u2" if datatype == "BF16" else _NUMPY[datatype])
        if type(size) is not int or size != count * kind.itemsize or size > len(binary):
            raise InvalidTensor(
                f"{name}: {count} values of {datatype} are {count * kind.itemsize} bytes; "
                f"binary_data_size is {size!r}, and {len(binary)} are left"
            )
        values, binary = np.frombuffer(binary[:size], kind.newbyteorder("<")), binary[size:]
        if datatype == "BF16":  # the upper half of a float32
            values = (values.astype("<u4") << 16).view("<f4")
    if values.size != count:
        raise InvalidTensor(f"{name}: the shape {shape} has {count} values, the data {values.size}")
    return values.reshape(shape), binary


def _from_json(name: str, data: Any, code: str) -> np.ndarray:
    """Values in the datatype that was declared. Raises `InvalidTensor` where that changes an integer."""
    found, wanted = array(data, name), np.dtype(code)
    if wanted.kind in "iub" and found.size:
        with np.errstate(invalid="ignore"):
            cast = found.astype(wanted)
        if not np.array_equal(cast, found):
            raise InvalidTensor(f"{name}: the data are not all {_NAMES[wanted]}")
        return cast
    with np.errstate(over="ignore"):
        return found.astype(wanted)


def _parameters(item: Any) -> dict[str, Any]:
    found = item.get("parameters")
    return found if isinstance(found, dict) else {}


def _asked(document: dict[str, Any]) -> _Asked:
    refuse_unknown(_parameters(document), (*PARAMETERS, "binary_data_output", "content_type"))
    default = _parameters(document).get("binary_data_output") is True
    wanted = document.get("outputs")
    outputs = None
    if isinstance(wanted, list) and wanted:
        if not all(isinstance(item, dict) and "name" in item for item in wanted):
            raise InvalidTensor("'outputs' is not a list of objects with a name")
        outputs = {str(item["name"]): bool(_parameters(item).get("binary_data", default)) for item in wanted}
    identifier = document.get("id")
    return _Asked(identifier=str(identifier) if identifier is not None else None, binary=default, outputs=outputs)


def _bytes(values: np.ndarray) -> bytes:
    """Little-endian; of text, each with its length before it."""
    if values.dtype.kind != "U":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [text.encode() for text in values.reshape(-1).tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    """Raises `UnknownOutput` where the request names one that the model has not."""
    asked: _Asked = decoded.asked or _Asked(identifier=None, binary=False, outputs=None)
    found = named(outputs)
    unknown = [name for name in asked["outputs"] or () if name not in found]
    if unknown:
        raise UnknownOutput(f"the model gives {', '.join(found)}; asked for was {', '.join(unknown)}")
    wanted = asked["outputs"] if asked["outputs"] is not None else dict.fromkeys(found, asked["binary"])
    listed, tails = [], []
    for name, binary in wanted.items():
        values = np.ascontiguousarray(found[name])
        item: dict[str, Any] = {"name": name, "datatype": datatype(values.dtype.str), "shape": list(found[name].shape)}
        if binary:
            tail = _bytes(values)
            item["parameters"] = {"binary_data_size": len(tail)}
            tails.append(tail)
        else:
            plain = values.dtype != np.float16 and values.dtype.kind != "U"
            item["data"] = fragment(values.reshape(-1)) if plain else values.reshape(-1).tolist()
        listed.append(item)
    document: dict[str, Any] = {"model_name": "model", "model_version": "1", "outputs": listed}
    if asked["identifier"] is not None:
        document["id"] = asked["identifier"]
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tails:
        return Encoded(head, "application/json")
    return Encoded(b"".join([head, *tails]), "application/octet-stream", {LENGTH_HEADER: str(len(head))})
