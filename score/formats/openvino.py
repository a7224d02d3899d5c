"""`openvino`: OpenVINO's intermediate representation, an `.xml` graph and a `.bin` with its constants.

Its constants are read here; the graph is run by OpenVINO where that is installed. Specification:
https://docs.openvino.ai, "OpenVINO IR format".
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any
from xml.parsers import expat

import torch

from score.errors import MalformedFile, NoWeights, UnsupportedFormat
from score.formats import dtypes
from score.formats._io.folder import contained
from score.formats._io.source import Source
from score.formats._pickle.rebuild import StorageRef, row_major, strided
from score.formats.base import Checkpoint, Program, TensorRef
from score.formats.probe import Probe

NAME = "openvino"
PRIORITY = 1  # an XML document is foreign otherwise
SERVABLE = True
MOST_LAYERS = 1_000_000
_DTYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "boolean": "bool",
}  # fmt: skip
# Whose operators OpenVINO has itself; another version is an extension's, which is native code.
_OPSETS = re.compile(r"(type_relaxed_)?(opset\d{1,3}|experimental)\Z")
_KEEPS_STATE = frozenset(("ReadValue", "Assign"))


def detect(probe: Probe) -> bool:
    if probe.is_dir:
        graph = _alone(probe.path)
        return graph is not None and detect(Probe(graph))
    return probe.head.lstrip().startswith((b"<?xml", b"<net")) and re.search(rb"<net\s", probe.head) is not None


def _alone(folder: Path) -> Path | None:
    """The graph of a folder that holds its two files and nothing else."""
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return None
    pair = len(found) == 2 and [each.suffix for each in found] == [".bin", ".xml"] and found[0].stem == found[1].stem
    return found[1] if pair and all(each.is_file() and not each.is_symlink() for each in found) else None


def open(path: Path, read: str) -> Checkpoint:
    """Raises `NoWeights` without its `.bin`, `MalformedFile`, or `UnsupportedFormat` for a graph that keeps something
    from one request to the next."""
    given, path = path, _alone(path) or path if path.is_dir() else path
    layers = _layers(path)
    stateful = sorted({kind for _, kind, _, _ in layers if kind in _KEEPS_STATE})
    if stateful:
        raise UnsupportedFormat(
            f"{path.name} keeps state from one request to the next ({', '.join(stateful)})",
            hint="Export it without state (optimum-cli export openvino --disable-stateful), or take its safetensors.",
        )
    constants = contained(path.parent, f"{path.stem}.bin")
    if not constants.is_file():
        raise NoWeights(f"{constants.name}, with the weights of {path.name}, is not beside it")
    source = Source(constants, read)
    tree: dict[str, TensorRef] = {}
    for name, kind, _, said in layers:
        if kind == "Const" and (ref := _constant(source, name, said)) is not None:
            tree[name] = ref
    strange = dict.fromkeys(f"{version}.{kind}" for _, kind, version, _ in layers if not _OPSETS.match(version))
    return Program(
        NAME,
        given,
        tree,
        metadata={"layers": len(layers)},
        build=partial(_load, path),
        class_path="an OpenVINO graph",
        code=tuple(strange),
    )


def _load(path: Path, device: torch.device) -> torch.nn.Module:
    from score.formats._program import openvino_graph  # a module of torch's, which reading does without

    return openvino_graph.load(path, device)


_Layer = tuple[str, str, str, dict[str, str]]  # its name, type and opset, and what its <data> says


def _layers(path: Path) -> list[_Layer]:
    """Every layer, those in the bodies of loops and branches too."""
    found: list[_Layer] = []

    def start(tag: str, said: dict[str, str]) -> None:
        if tag == "layer":
            found.append((said.get("name", ""), said.get("type", ""), said.get("version", ""), {}))
            if len(found) > MOST_LAYERS:
                raise MalformedFile(f"{path.name} has more than {MOST_LAYERS:,} layers")
        elif tag == "data" and found and not found[-1][3]:
            found[-1][3].update(said)

    def refuse(*_: Any) -> None:
        raise MalformedFile(f"{path.name} declares a document type or entities, which no graph needs")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.ParseFile(Source(path).file())
    except expat.ExpatError as error:
        raise MalformedFile(f"{path.name} is no whole XML document ({error})") from None
    return found


def _constant(source: Source, name: str, said: dict[str, str]) -> TensorRef | None:
    """A constant as a tensor; None for one of a type that torch lacks, such as 4 bits. Raises `MalformedFile` or
    `TruncatedFile`."""
    try:
        offset, nbytes = int(said["offset"]), int(said["size"])
        shape = tuple(int(part) for part in said["shape"].split(",") if part.strip())
    except (KeyError, ValueError):
        raise MalformedFile(f"{source.name}: the constant {name!r:.100} is not described in full") from None
    source.check(offset, nbytes, f"the constant {name!r:.100}")
    dtype = _DTYPES.get(said.get("element_type", ""))
    if dtype is None:
        return None
    strides = row_major(shape)
    if any(size < 0 for size in shape) or math.prod(shape) * dtypes.ITEMSIZE[dtype] != nbytes:
        raise MalformedFile(f"{source.name}: the constant {name!r:.100} of {list(shape)} can't take {nbytes:,} bytes")
    return strided(StorageRef.within(source, dtype, offset, nbytes), 0, shape, strides)
