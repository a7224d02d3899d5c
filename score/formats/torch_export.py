"""`torch-export`: torch.export.save, a zip with a graph in JSON, its weights and sample inputs.

Read here and nowhere else: the JSON by `_export_schema`, the graph by `_export_graph`, the tensors from where they lie
in the file. torch's own loader unpickles parts of such a file, and evaluates others; it is given the file only when
that is trusted. Sample inputs are never read.
Source: torch/export/pt2_archive/_package.py and torch/_export/serde/schema.py.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from score.errors import LoadError, MalformedFile, VersionTooOld
from score.formats._io.source import Source
from score.formats._io.zip import Archive
from score.formats._pickle.inert import settled
from score.formats._pickle.rebuild import StorageRef, strided
from score.formats._program import export_plan, symbols
from score.formats._program.export_plan import DTYPES, NotAllowed, Plan
from score.formats._program.export_schema import PAYLOAD, PROGRAM, checked, json_record
from score.formats.base import Checkpoint, Program, TensorRef
from score.formats.probe import Probe
from score.formats.torch_zip import read_archive

NAME = "torch-export"
PRIORITY = 0
SERVABLE = True
CLASS_PATH = "torch.export.ExportedProgram"
# Where the graph is, and its weights and constants: as a configuration of records, or as one torch.save archive.
_MODELS = ("models/model.json", "serialized_exported_program.json")
_CONFIGURATIONS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_ARCHIVES = (
    *("data/weights/model.pt", "data/constants/model.pt"),
    *("serialized_state_dict.pt", "serialized_constants.pt"),
    *("serialized_state_dict.json", "serialized_constants.json"),  # torch 2.1: torch.save archives under this name
)
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_QUALIFIED = re.compile(r"[\w.\-]*\Z")


def detect(probe: Probe) -> bool:
    return any(probe.has(name) for name in _MODELS) and not probe.has_under("data/aotinductor")


def open(path: Path, read: str) -> Checkpoint:
    archive = Archive(Source(path, read))
    tensors, code = _tensors(archive)
    weights = {name: tensor for name, (tensor, is_weight) in tensors.items() if is_weight}
    metadata = _metadata(archive)
    try:
        plan, found = _planned(archive)
        code += found
    except VersionTooOld as error:  # its weights are read all the same
        return Program(NAME, path, weights, metadata=metadata, build=_raising(error), class_path=CLASS_PATH)

    def build(device: torch.device) -> torch.nn.Module:
        if code or plan is None:
            return _load_trusted(path, device)
        from score.formats._program import export_graph  # torch's modules

        return export_graph.build(plan, lambda name: _tensor(path, tensors, name), device)

    return Program(NAME, path, weights, metadata=metadata, build=build, class_path=CLASS_PATH, code=tuple(code))


def _raising(error: LoadError) -> Any:
    def build(device: torch.device) -> torch.nn.Module:
        raise error

    return build


def _record(archive: Archive) -> str:
    found = next((name for name in _MODELS if name in archive), None)
    if found is None:
        raise MalformedFile(f"{archive.path.name}: the graph is in another folder than the rest of the archive")
    return found


def _metadata(archive: Archive) -> dict[str, Any]:
    try:
        model = json_record(archive, _record(archive))
    except MalformedFile:
        return {}
    return {key: model[key] for key in ("schema_version", "torch_version", "opset_version") if key in model}


def _planned(archive: Archive) -> tuple[Plan | None, list[str]]:
    """The plan, and what of the program needs trust."""
    from score.formats._program import export_graph

    program = checked(archive, _record(archive), PROGRAM)
    found = dict.fromkeys(_strange(program))
    for target in export_plan.named_operators(program["graph_module"]["graph"]):
        if not export_plan.allowed(target):
            found[f"the operator {target[:120]!r}"] = None
    if found:
        return None, list(found)
    try:
        plan = export_plan.plan(program, archive.path.name)
        export_graph.trace(plan)
    except NotAllowed as error:
        return None, [str(error)]
    return plan, []


def _strange(program: Mapping[str, Any]) -> Iterator[str]:
    """Names and expressions that are not of the form that torch writes."""
    waiting: list[tuple[str, Any]] = [("", program)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, list):
            waiting.extend((key, item) for item in value)
        elif isinstance(value, dict):
            named = key.endswith("_values") or key == "range_constraints"
            for name in value if named else ():
                if not (_is_expression(name) if key == "range_constraints" else _NAME.match(name)):
                    yield f"the name {name[:80]!r}"
            waiting.extend(item for item in value.items() if item[0] not in ("metadata", "opset_version"))
        elif isinstance(value, str):
            if key == "expr_str" and not _is_expression(value):
                yield f"the expression {value[:80]!r}"
            elif (key in ("name", "as_name") and value and not _NAME.match(value)) or (
                key in ("parameter_name", "buffer_name", "tensor_constant_name") and not _QUALIFIED.match(value)
            ):
                yield f"the name {value[:80]!r}"


def _is_expression(text: str) -> bool:
    try:
        symbols.parse(text)
    except symbols.NotAnExpression:
        return False
    return True


def _tensors(archive: Archive) -> tuple[dict[str, tuple[TensorRef, bool]], list[str]]:
    """Every weight and constant by name, with whether it is a weight; and, in words, those that only a pickle of more
    than tensors could give."""
    found: dict[str, tuple[TensorRef, bool]] = {}
    code: list[str] = []
    stored: dict[str, StorageRef] = {}
    for record in _CONFIGURATIONS:
        if record in archive:
            for name, entry in checked(archive, record, PAYLOAD)["config"].items():
                ref = _payload(archive, record.rpartition("/")[0], name, entry, stored)
                if ref is None:
                    code.append(f"an object of another kind than a tensor, {name[:80]!r} in {entry['path_name'][:80]}")
                else:
                    found[name] = ref, "weights" in record
    for record in _ARCHIVES:
        if record in archive and archive.size(record):
            held = _pickled(archive, record)
            if not isinstance(held, dict):
                code.append(f"a pickle, in {record}")
                continue
            for key, value in held.items():
                ref = settled(value)
                if isinstance(key, str) and isinstance(ref, TensorRef):
                    found[key] = ref, "constants" not in record
                else:
                    code.append(f"an object of another kind than a tensor, {str(key)[:80]!r} in {record}")
    return found, code


def _payload(
    archive: Archive, folder: str, name: str, entry: Mapping[str, Any], stored: dict[str, StorageRef]
) -> TensorRef | None:
    """One tensor of a configuration; None for what is none."""
    path = entry["path_name"]
    if not re.fullmatch(r"(weight|tensor)_\d+", path):
        return None
    record = f"{folder}/{path}"
    if entry["use_pickle"]:
        value = settled(_pickled(archive, record))
        return value if isinstance(value, TensorRef) else None
    meta = entry.get("tensor_meta")
    if meta is None:
        raise MalformedFile(f"{archive.path.name}: the weight {name[:80]!r} is not described in full")
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise VersionTooOld(
            f"{archive.path.name}: the weight {name[:80]!r} is of dtype number {meta['dtype']}, "
            f"which torch {torch.__version__} does not know"
        )
    if record not in stored:
        whole = archive.size(record)
        stored[record] = StorageRef(dtype, whole, lambda: archive.storage(record), archive.content(record))
    try:
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        return strided(stored[record], meta["storage_offset"]["as_int"], sizes, strides, dtype=dtype)
    except KeyError:
        raise MalformedFile(f"{archive.path.name}: the weight {name[:80]!r} has a size that is no number") from None


def _pickled(archive: Archive, record: str) -> Any:
    """What a torch.save archive inside of this one holds, read without running anything; None where it is none."""
    try:
        window = archive.window(record)
        return read_archive(Archive(window))[0].value
    except LoadError:
        return None


def _tensor(path: Path, tensors: Mapping[str, tuple[TensorRef, bool]], name: str) -> torch.Tensor:
    if name not in tensors:
        raise MalformedFile(f"{path.name}: the program has a weight {name[:80]!r}, which is not in the file")
    return tensors[name][0].load()


def _load_trusted(path: Path, device: torch.device) -> torch.nn.Module:
    """By torch's own loader, with all that this runs. Only when trusted."""
    try:
        with path.open("rb") as file:  # a buffer, since torch warns of names that do not end in .pt2
            program = torch.export.load(io.BytesIO(file.read()))
    except (RuntimeError, ValueError, AssertionError, KeyError, TypeError) as error:
        if "version" in str(error):
            raise VersionTooOld(f"{path.name}: torch {torch.__version__} can't load it: {error}") from None
        raise MalformedFile(f"{path.name}: torch {torch.__version__} can't load it: {error}") from None
    devices = {tensor.device.type for tensor in program.state_dict.values()}
    if devices - {device.type} or device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    # Without guards: torch would compile the file's guard expressions as Python. Shapes are checked by the signature.
    return program.module(check_guards=False)
