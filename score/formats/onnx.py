"""`onnx`: an ONNX graph, served by onnxruntime where that is installed. Its weights are read without it.

The file is one protobuf message, ModelProto; its initializers are found by walking the wire format, so that raw data is
mapped where it lies. By hand, since protobuf's parser copies all of it into memory, and serving needs no onnx package.
Specifications: onnx/onnx.proto, https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score.errors import MalformedFile, TruncatedFile, VersionTooOld
from score.formats import dtypes
from score.formats._io.folder import within
from score.formats._io.source import Source
from score.formats._pickle.rebuild import StorageRef, row_major, strided
from score.formats.base import Checkpoint, Program, TensorRef
from score.formats.probe import Probe

NAME = "onnx"
PRIORITY = 0
SERVABLE = True

# TensorProto.DataType by number; those that torch lacks are left out
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz",
}  # fmt: skip
_MODEL_PRODUCER, _MODEL_GRAPH, _GRAPH_INITIALIZER, _MODEL_FUNCTION, _FUNCTION_DOMAIN = 2, 7, 5, 25, 10
_NODE_TYPE, _NODE_DOMAIN = 4, 7
# onnxruntime has the operators of these built in; any other domain is of a library that the file would have loaded.
_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))
_NATIVE = frozenset(("EPContext",))  # carries, or names a file with, compiled code
_MAX_DEPTH = 32
# Where the messages that matter lie in each other: by the kind of a message, its fields that are others.
_NESTED = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTION: "function"},
    "function": {7: "node"},
    "graph": {1: "node", _GRAPH_INITIALIZER: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_TYPED_DATA = {4: "<f4", 5: "<i4", 7: "<i8", 10: "<f8", 11: "<u8"}  # float_data, int32_data, int64_data ...

Field = tuple[int, int, int]  # number, where its content starts, where it ends (or its value, for a varint)


def detect(probe: Probe) -> bool:
    """`ir_version` (1 to 20) comes first, followed by another field of ModelProto."""
    head = probe.head
    return len(head) > 4 and head[0] == 0x08 and 1 <= head[1] <= 20 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def open(path: Path, read: str) -> Checkpoint:
    source = Source(path, read)
    data = source.view()
    model = list(_fields(data, 0, source.size))
    graphs = [(start, end) for number, start, end in model if number == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise MalformedFile(f"an ONNX model with {len(graphs)} graphs")
    tree = dict(
        _tensor(source, data, start, end)
        for number, start, end in _fields(data, *graphs[0])
        if number == _GRAPH_INITIALIZER
    )
    producer = _text(data, [(start, end) for number, start, end in model if number == _MODEL_PRODUCER])
    own = {_text(data, [span]) for span in _domains_of_functions(data, model)}
    operators = list(dict.fromkeys(_operators(source, data)))
    return Program(
        NAME,
        path,
        tree,
        metadata={"ir_version": data[1], "producer": producer},
        build=partial(_load, path, frozenset(name for _, name in operators)),
        class_path="an ONNX graph",
        code=tuple(
            f"the operator {domain}::{name}"[:160]
            for domain, name in operators
            if domain not in _DOMAINS | own or name in _NATIVE
        ),
    )


def _domains_of_functions(data: Any, model: list[Field]) -> Iterator[tuple[int, int]]:
    """Where the domains of the file's own functions lie."""
    for number, start, end in model:
        if number == _MODEL_FUNCTION:
            yield from ((first, last) for part, first, last in _fields(data, start, end) if part == _FUNCTION_DOMAIN)


def _operators(source: Source, data: Any) -> Iterator[tuple[str, str]]:
    """The domain and the name of each operator, wherever in the graph it is. Raises `MalformedFile` for a tensor whose
    elements are said to be outside the folder: onnxruntime would read them from there."""
    waiting = [("model", 0, source.size, 0)]
    while waiting:
        kind, start, end, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise MalformedFile(f"an ONNX graph nested more than {_MAX_DEPTH} deep")
        fields: dict[int, list[tuple[int, int]]] = {}
        for number, first, last in _fields(data, start, end):
            if kind == "node" or (kind == "tensor" and number in (_EXTERNAL, _LOCATION)):
                fields.setdefault(number, []).append((first, last))
            if (inner := _NESTED.get(kind, {}).get(number)) is not None:
                waiting.append((inner, first, last, depth + 1))
        if kind == "node":
            yield _text(data, fields.get(_NODE_DOMAIN, [])), _text(data, fields.get(_NODE_TYPE, []))
        elif kind == "tensor" and (_EXTERNAL in fields or fields.get(_LOCATION, [(0, 0)])[0][0] == 1):
            within(source.path.parent, _pairs(data, fields.get(_EXTERNAL, [])).get("location", ""))


def _varint(data: Any, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise TruncatedFile("the ONNX message ends in the middle of a number")


def _fields(data: Any, position: int, end: int) -> Iterator[Field]:
    """The fields of a message between two offsets."""
    while position < end:
        key, position = _varint(data, position, end)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position, end)
            yield number, value, value
            continue
        if kind == 2:
            length, position = _varint(data, position, end)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise MalformedFile(f"the ONNX message has a field of wire type {kind}")
        if number == 0 or position + length > end:
            raise TruncatedFile(f"the ONNX message ends inside field {number}")
        yield number, position, position + length
        position += length


def _tensor(source: Source, data: Any, start: int, end: int) -> tuple[str, TensorRef]:
    fields: dict[int, list[tuple[int, int]]] = {}
    for number, first, last in _fields(data, start, end):
        fields.setdefault(number, []).append((first, last))
    name = _text(data, fields.get(_NAME, []))
    code = fields.get(_TYPE, [(0, 0)])[0][0]
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise VersionTooOld(
            f"the initializer {name!r} has ONNX data type {code}, which torch {torch.__version__} lacks"
        )
    shape = _integers(data, fields.get(_DIMS, []))
    strides = row_major(shape)
    nbytes = math.prod(shape) * dtypes.ITEMSIZE[dtype]
    if fields.get(_LOCATION, [(0, 0)])[0][0] == 1:
        storage = _external(source, data, fields.get(_EXTERNAL, []), dtype, nbytes)
    elif _RAW in fields:
        first, last = fields[_RAW][0]
        storage = StorageRef.within(source, dtype, first, last - first)
    else:
        storage = _typed(data, fields, dtype)
    if storage.nbytes != nbytes:
        raise MalformedFile(
            f"the initializer {name!r} of shape {list(shape)} has {storage.nbytes:,} bytes, not {nbytes:,}"
        )
    return name, strided(storage, 0, shape, strides)


def _integers(data: Any, spans: list[tuple[int, int]]) -> tuple[int, ...]:
    """Repeated integers: packed into one field, or a field each."""
    found: list[int] = []
    for first, last in spans:
        if first == last:
            found.append(first)
            continue
        while first < last:
            value, first = _varint(data, first, last)
            found.append(value)
    if any(value >= 1 << 62 for value in found):
        raise MalformedFile("an initializer has a negative or absurd size")
    return tuple(found)


def _text(data: Any, spans: list[tuple[int, int]]) -> str:
    return bytes(data[spans[0][0] : spans[0][1]]).decode("utf-8", "replace") if spans else ""


def _typed(data: Any, fields: dict[int, list[tuple[int, int]]], dtype: str) -> StorageRef:
    """Elements in one of the typed fields; small types travel in int32_data, half floats as their bits."""
    number = next((number for number in _TYPED_DATA if number in fields), None)
    if number is None:
        return StorageRef(dtype, 0, lambda: torch.UntypedStorage(0))
    if number in (5, 7, 11):
        values = np.array(_signed(data, fields[number]), np.int64)
        bits = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[dtypes.ITEMSIZE[dtype]]
        array = values.astype(bits)
    else:
        array = np.frombuffer(b"".join(bytes(data[first:last]) for first, last in fields[number]), _TYPED_DATA[number])
    content = bytearray(array.tobytes())
    return StorageRef(
        dtype,
        len(content),
        lambda: torch.frombuffer(content, dtype=torch.uint8).untyped_storage(),
        lambda: memoryview(content),
    )


def _signed(data: Any, spans: list[tuple[int, int]]) -> list[int]:
    found = []
    for first, last in spans:
        position, packed = first, first != last
        while packed and position < last:
            value, position = _varint(data, position, last)
            found.append(value)
        if not packed:
            found.append(first)
    return [value - (1 << 64) if value >= 1 << 63 else value for value in found]


def _external(source: Source, data: Any, spans: list[tuple[int, int]], dtype: str, nbytes: int) -> StorageRef:
    """Elements in a file beside the model: key-value pairs `location`, `offset`, `length`."""
    pairs = _pairs(data, spans)
    beside = Source(within(source.path.parent, pairs.get("location", "")), "mmap" if source.mapped else "read")
    try:
        offset, length = int(pairs.get("offset", "0")), int(pairs.get("length", str(nbytes)))
    except ValueError:
        raise MalformedFile(f"an external initializer at {pairs}") from None
    beside.check(offset, length, "an external initializer")
    return StorageRef(dtype, length, partial(beside.storage, offset, length))


def _pairs(data: Any, spans: list[tuple[int, int]]) -> dict[str, str]:
    """Key-value pairs of text."""
    pairs: dict[str, str] = {}
    for first, last in spans:
        entry = {number: (start, end) for number, start, end in _fields(data, first, last)}
        pairs[_text(data, [entry.get(1, (0, 0))])] = _text(data, [entry.get(2, (0, 0))])
    return pairs


def _load(path: Path, operators: frozenset[str], device: torch.device) -> torch.nn.Module:
    from score.formats._program import onnx_graph  # a module of torch's, which reading does without

    return onnx_graph.load(path, device, operators).eval()
