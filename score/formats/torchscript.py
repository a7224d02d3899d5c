"""`torchscript`: torch.jit.save. A zip like torch-zip, with the model's code in TorchScript beside its values.

Served as it is by torch.jit, whose interpreter runs TorchScript and no Python. Its weights are read without it: the
pickle in `data.pkl` holds every module's attributes, and the code says which of them are parameters and buffers.
Source: torch/csrc/jit/serialization, docs/serialization.md.
"""

import re
from pathlib import Path

import torch
from torch import nn

from score.errors import LoadError, MalformedFile, VersionTooOld
from score.formats._pickled import read_pickle
from score.formats._source import Source
from score.formats._zip import Archive
from score.formats.contents import Contents, Program, StandIn, TensorRef
from score.formats.probe import Probe
from score.formats.torch_zip import require_version, storages

NAME = "torchscript"
MAX_DEPTH = 200

_CLASS = re.compile(
    r"^class (\S+)\(Module\):\n\s+__parameters__ = \[(.*?)\]\n\s+__buffers__ = \[(.*?)\]\n", re.M | re.S
)
_MANGLED = re.compile(r"^__torch__\.|___torch_mangle_\d+\.")


def detect(probe: Probe) -> bool:
    return probe.has("constants.pkl") and probe.has("data.pkl")


def open(path: Path, read: str) -> Contents:
    archive = Archive(Source(path, read))
    require_version(archive)
    pickled = read_pickle(archive.bytes("data.pkl"), storages(archive), name=f"{path.name}:data.pkl")
    root = pickled.value
    if not isinstance(root, StandIn):
        raise MalformedFile(f"{path.name}: a TorchScript archive without a module")
    weights: dict[str, TensorRef] = {}
    _collect(root, "", _tensor_names(archive), weights, MAX_DEPTH)
    class_path = _MANGLED.sub("", root.path)
    program = Program(build=lambda device: _load(path, device), class_path=class_path)
    return Contents(NAME, path, weights, program=program, metadata={"devices": list(pickled.locations)})


def _tensor_names(archive: Archive) -> dict[str, list[str]]:
    """For each module class, the names of its parameters and buffers, from its code."""
    names: dict[str, list[str]] = {}
    for record in archive.names():
        if record.startswith("code/") and record.endswith(".py"):
            module = record.removeprefix("code/").removesuffix(".py").replace("/", ".")
            for cls, parameters, buffers in _CLASS.findall(archive.text(record) + "\n"):
                names[f"{module}.{cls}"] = re.findall(r'"([^"]+)"', f"{parameters} {buffers}")
    return names


def _collect(module: StandIn, prefix: str, names: dict[str, list[str]], into: dict[str, TensorRef], depth: int) -> None:
    """Add the module's state_dict to `into`, in torch's order: its own tensors, then its submodules'."""
    if depth == 0:
        raise MalformedFile(f"TorchScript modules nested more than {MAX_DEPTH} deep")
    attributes = module.attributes() | module.mapping
    for name in names.get(module.path, ()):
        if isinstance(attributes.get(name), TensorRef):
            into[prefix + name] = attributes[name]
    for name, value in attributes.items():
        if isinstance(value, StandIn) and value.path in names:
            _collect(value, f"{prefix}{name}.", names, into, depth - 1)


def _load(path: Path, device: torch.device) -> nn.Module:
    try:
        module: nn.Module = torch.jit.load(str(path), map_location=device)
    except RuntimeError as error:
        raise explained(path, error) from None
    return module


def explained(path: Path, error: RuntimeError) -> LoadError:
    """What torch said of a file, as an error of ours: the line that says what is wrong, without the C++ trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0].split(" (most recent call")[0] if lines else type(error).__name__
    kind = VersionTooOld if "newer" in text or "maximum supported version" in text else MalformedFile
    return kind(f"{path.name}: torch {torch.__version__} can't load it: {text}")
