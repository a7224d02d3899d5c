"""`torch-export`: torch.export.save, a zip with a graph in JSON, its weights and sample inputs.

Served as it is, once `_pt2_audit` has found nothing in it that torch would unpickle, evaluate or import.
Source: torch/export/pt2_archive/_package.py and torch/_export/serde/schema.py.
"""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score.errors import MalformedFile, VersionTooOld
from score.formats import _pt2_audit
from score.formats._source import Source
from score.formats._tensors import StorageRef, strided
from score.formats._zip import Archive
from score.formats.contents import Contents, Program, TensorRef
from score.formats.probe import Probe

NAME = "torch-export"
WEIGHTS_CONFIG = "data/weights/model_weights_config.json"


def detect(probe: Probe) -> bool:
    exported = probe.has("models/model.json") or probe.has("serialized_exported_program.json")
    return exported and not probe.has_under("data/aotinductor")


def open(path: Path, read: str) -> Contents:
    archive = Archive(Source(path, read))
    code = _pt2_audit.findings(archive)
    program = Program(build=lambda device: _load(path, device), class_path="torch.export.ExportedProgram", code=code)
    return Contents(NAME, path, _weights(archive), program=program, metadata=_metadata(archive))


def _metadata(archive: Archive) -> dict[str, Any]:
    if "models/model.json" not in archive:
        return {}
    model = _pt2_audit.json_record(archive, "models/model.json")
    versions = {key: model[key] for key in ("schema_version", "torch_version") if key in model}
    return versions | {"opset_version": model.get("opset_version")}


def _weights(archive: Archive) -> dict[str, TensorRef]:
    """The program's state_dict. Weights that were pickled are left out here; the audit reports them."""
    if WEIGHTS_CONFIG not in archive:
        return {}
    config = _pt2_audit.json_record(archive, WEIGHTS_CONFIG).get("config", {})
    stored: dict[str, StorageRef] = {}
    tree: dict[str, TensorRef] = {}
    for name, entry in config.items():
        try:
            if entry["use_pickle"]:
                continue
            meta, record = entry["tensor_meta"], f"data/weights/{entry['path_name']}"
            dtype = _dtype(name, meta["dtype"])
            if record not in stored:
                stored[record] = _storage(archive, record, dtype)
            sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
            tree[name] = strided(stored[record], meta["storage_offset"]["as_int"], sizes, strides, dtype=dtype)
        except (KeyError, TypeError) as error:
            raise MalformedFile(
                f"{archive.path.name}: the weight {name!r} is not described in full ({error})"
            ) from None
    return tree


def _storage(archive: Archive, record: str, dtype: torch.dtype) -> StorageRef:
    return StorageRef(dtype, archive.size(record), lambda: archive.storage(record))


def _dtype(name: str, code: Any) -> torch.dtype:
    """torch._export.serde.schema.ScalarType, by number."""
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    dtype: torch.dtype | None = _SERIALIZE_TO_TORCH_DTYPE.get(code)
    if dtype is None:
        raise VersionTooOld(
            f"the weight {name!r} has dtype number {code!r}, which torch {torch.__version__} does not know"
        )
    return dtype


def _load(path: Path, device: torch.device) -> nn.Module:
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
