"""Tensors of the Open Inference Protocol as bytes, and back: for its JSON, its binary extension and its gRPC alike.

Specification: triton-inference-server/server, docs/protocol/extension_binary_data.md and extension_classification.md.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score.codecs.json_dialects import MAX_DEPTH
from score.errors import InvalidTensor, NotNumeric, TopKUnavailable

NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8",
    "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
}  # fmt: skip
NAMES = {np.dtype(code): name for name, code in NUMPY.items()}
BYTES, BF16 = "BYTES", "BF16"
_PREFIX = 4  # bytes of a text's length before it
Item = str | dict[str, str]
"""A text; or bytes that are none, such as a picture's, as TensorFlow Serving writes them: `{"b64": "..."}`."""


def datatype(dtype: str) -> str:
    """The protocol's name for a numpy dtype; text is BYTES."""
    return BYTES if np.dtype(dtype).kind == "U" else NAMES[np.dtype(dtype)]


def size_of(name: str, kind: str, shape: Any) -> int:
    """How many values there are. Raises `InvalidTensor`, or `NotNumeric` for a datatype that nothing here takes."""
    if not isinstance(shape, list) or len(shape) > MAX_DEPTH:
        raise InvalidTensor(f"{name}: the shape is not a list of at most {MAX_DEPTH} sizes")
    if not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise InvalidTensor(f"{name}: the shape {shape!r:.200} is not a list of sizes")
    if kind not in (*NUMPY, BF16, BYTES):
        raise NotNumeric(f"{name}: datatype {kind:.40}; there is {', '.join([*NUMPY, BF16, BYTES])}")
    return math.prod(shape)


def numbers(name: str, kind: str, shape: Sequence[int], data: memoryview) -> np.ndarray:
    """Little-endian numbers. Raises `InvalidTensor` where there are more bytes or fewer."""
    dtype = np.dtype("<u2" if kind == BF16 else NUMPY[kind]).newbyteorder("<")
    count = math.prod(shape)
    if len(data) != count * dtype.itemsize:
        raise InvalidTensor(f"{name}: {count} values of {kind} are {count * dtype.itemsize} bytes, not {len(data)}")
    values = np.frombuffer(data, dtype)
    if kind == BF16:  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(shape)


def byte_strings(name: str, count: int, data: memoryview) -> list[bytes]:
    """Byte strings, each with its length before it. Raises `InvalidTensor`."""
    found = []
    while data:
        length = int.from_bytes(data[:_PREFIX], "little")
        if len(data) < _PREFIX + length:
            raise InvalidTensor(f"{name}: a text of {length} bytes, of which {max(len(data) - _PREFIX, 0)} are there")
        found.append(bytes(data[_PREFIX : _PREFIX + length]))
        data = data[_PREFIX + length :]
    if len(found) != count:
        raise InvalidTensor(f"{name}: the shape has {count} texts, the data {len(found)}")
    return found


def to_bytes(values: np.ndarray) -> bytes:
    """Little-endian; of text, each with its length before it."""
    if values.dtype.kind != "U":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [text.encode() for text in values.reshape(-1).tolist()]
    return b"".join(len(text).to_bytes(_PREFIX, "little") + text for text in texts)


def rows_of(columns: Mapping[str, Sequence[Item]]) -> tuple[Any, ...]:
    """Texts by input name, as items: those of the only input, or an object of all inputs for each row. Raises
    `InvalidTensor`."""
    if len(columns) == 1:
        return tuple(next(iter(columns.values())))
    if len({len(column) for column in columns.values()}) != 1:
        raise InvalidTensor(f"{', '.join(columns)} have different numbers of texts")
    return tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def best_classes(name: str, values: np.ndarray, most: int, labels: Sequence[str]) -> np.ndarray:
    """The classification extension: for each row its largest values as texts `value:index:label`. Raises
    `TopKUnavailable` where they are no classes."""
    if values.dtype.kind != "f" or values.ndim not in (1, 2) or not values.shape[-1]:
        raise TopKUnavailable(f"{name}: classes need a row of numbers each, and it is {datatype(values.dtype.str)}")
    if labels and len(labels) != values.shape[-1]:
        raise TopKUnavailable(f"there are {len(labels)} labels for {values.shape[-1]} classes")
    order = np.argsort(-values, axis=-1, kind="stable")[..., :most]
    said = [
        [f"{row[at]:f}:{at}" + (f":{labels[at]}" if labels else "") for at in best]
        for row, best in zip(np.atleast_2d(values), np.atleast_2d(order), strict=True)
    ]
    return np.array(said, dtype=np.str_).reshape(order.shape)
