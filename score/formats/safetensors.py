"""`safetensors`: an 8-byte header length, a JSON header, then the tensors' bytes.

By hand, though the library is here: it opens a file, not a record in an archive or a window of a mapping, and its
errors do not say which tensor is wrong.

Specification: https://github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import torch

from score.errors import MalformedFile, TruncatedFile, VersionTooOld
from score.formats._io.source import Source
from score.formats._pickle.rebuild import StorageRef, row_major, strided
from score.formats.base import Checkpoint, StateDict, TensorRef
from score.formats.probe import Probe

NAME = "safetensors"
PRIORITY = 0
SERVABLE = True
MAX_HEADER = 100_000_000  # the specification's own limit
TORCHAO = "torchao"  # in the metadata: descriptions of its weights, by their names

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "C64": "complex64", "C128": "complex128",
}  # fmt: skip


def detect(probe: Probe) -> bool:
    # A length that text can't be mistaken for, then the start of a JSON object. A lying length is still safetensors.
    head = probe.head
    return (
        len(head) >= 10 and int.from_bytes(head[:8], "little") < 1 << 40 and head[8:10] in (b'{"', b"{}", b"{ ", b"{\n")
    )


def open(path: Path, read: str) -> Checkpoint:
    source = Source(path, read)
    header, start = _header(source)
    metadata = header.pop("__metadata__", {})
    spans: list[tuple[int, int, str]] = []
    tree: dict[str, TensorRef] = {}
    for name, entry in header.items():
        begin, end = _span(name, entry)
        source.check(start + begin, end - begin, f"the tensor {name!r}")
        spans.append((begin, end, name))
        tree[name] = _tensor(source, name, entry, start + begin, end - begin)
    _refuse_overlaps(spans)
    return StateDict(NAME, path, tree, metadata=_gathered(metadata) if isinstance(metadata, dict) else {})


def _gathered(metadata: dict[str, Any]) -> dict[str, Any]:
    """What torchao says of each of its weights under one name, and not among what else is said of the file."""
    try:
        names = orjson.loads(metadata.get("tensor_names", "[]"))
    except (TypeError, orjson.JSONDecodeError):
        return metadata
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return metadata
    described = {"tensor_names", *names}
    rest = {name: value for name, value in metadata.items() if name not in described}
    return {**rest, TORCHAO: {name: metadata.get(name) for name in names}}


def _header(source: Source) -> tuple[dict[str, Any], int]:
    """The header and the offset where the tensors' bytes start."""
    length = int.from_bytes(source.bytes(0, 8), "little")
    if length > MAX_HEADER:
        raise MalformedFile(f"the header claims {length:,} bytes; the format allows {MAX_HEADER:,}")
    if 8 + length > source.size:
        raise TruncatedFile(f"the header takes {length:,} bytes, but the file has {source.size:,}")
    try:
        header = orjson.loads(source.bytes(8, length))
    except orjson.JSONDecodeError as error:
        raise MalformedFile(f"the header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise MalformedFile("the header is not a JSON object")
    return header, 8 + length


def _span(name: str, entry: Any) -> tuple[int, int]:
    try:
        begin, end = entry["data_offsets"]
        if isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end:
            return begin, end
    except (TypeError, KeyError, ValueError):
        pass
    raise MalformedFile(f"the tensor {name!r} has no valid data_offsets")


def _tensor(source: Source, name: str, entry: dict[str, Any], offset: int, nbytes: int) -> TensorRef:
    label = str(entry.get("dtype"))
    dtype = _DTYPES.get(label)
    if dtype is None:
        raise VersionTooOld(f"the tensor {name!r} is of dtype {label}, which torch {torch.__version__} can't hold here")
    shape = entry.get("shape")
    if not isinstance(shape, list):
        raise MalformedFile(f"the tensor {name!r} has no shape")
    ref = strided(StorageRef.within(source, dtype, offset, nbytes), 0, shape, row_major(shape))
    if ref.nbytes != nbytes:
        raise MalformedFile(f"the tensor {name!r} of shape {shape} and dtype {label} can't take {nbytes:,} bytes")
    return ref


def _refuse_overlaps(spans: list[tuple[int, int, str]]) -> None:
    reached, before = 0, ""
    for begin, end, name in sorted(spans):
        if begin < reached:
            raise MalformedFile(f"the bytes of {before!r} and {name!r} overlap")
        reached, before = end, name
