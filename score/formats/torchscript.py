"""`torchscript`: torch.jit.save. A zip like torch-zip, with the model's code in TorchScript beside its values.

torch is never given the file. Its code is checked call by call (`_script_code`), its values are read here
(`_script_values`), and what torch loads is an archive that is written from the two, in memory. The weights are not in
it: each is a view of the file, put in its place afterwards. Once torch has resolved every call to an operator, these
are checked once more, overload by overload.
Source: torch/csrc/jit/serialization, docs/serialization.md.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from score.errors import LoadError, MalformedFile, UntrustedCode, VersionTooOld
from score.formats._io.source import Source, as_bytes, in_memory
from score.formats._io.zip import Archive
from score.formats._program import operators, script_code, script_values
from score.formats._program.script_code import Code
from score.formats._program.script_values import Call, Object, Writer
from score.formats.base import Checkpoint, Program, TensorRef
from score.formats.probe import Probe
from score.formats.torch_zip import require_version, storages, version_of

NAME = "torchscript"
PRIORITY = 0
SERVABLE = True
MAX_DEPTH = 200
MAX_MODULES = 100_000  # counted as often as they are there

_MANGLED = re.compile(r"^__torch__\.|___torch_mangle_\d+\.")
# What torch's interpreter does by itself, in terms of no operator.
_SYNTAX = frozenset(
    f"prim::{name}"
    for name in (
        *(
            "Constant",
            "If",
            "Loop",
            "GetAttr",
            "SetAttr",
            "CallMethod",
            "CallFunction",
            "CreateObject",
            "Enter",
            "Exit",
        ),
        *("ListConstruct", "ListUnpack", "TupleConstruct", "TupleUnpack", "TupleIndex", "TupleSlice", "DictConstruct"),
        *("Uninitialized", "unchecked_cast", "isinstance", "EnumName", "EnumValue", "Return", "Param", "NumToTensor"),
    )
)


def detect(probe: Probe) -> bool:
    return probe.has("constants.pkl") and probe.has("data.pkl")


def open(path: Path, read: str) -> Checkpoint:
    archive = Archive(Source(path, read))
    require_version(archive)
    code = script_code.read(
        {name: archive.text(name) + "\n" for name in archive.names() if _is_code(name)}, archive.path.name
    )
    values = script_values.read(archive.bytes("data.pkl"), storages(archive), f"{path.name}:data.pkl")
    constants = script_values.read(
        archive.bytes("constants.pkl"), storages(archive, "constants/"), f"{path.name}:constants.pkl"
    )
    root = values.value
    if not isinstance(root, Object):
        raise MalformedFile(f"{path.name}: a TorchScript archive without a module")
    weights: dict[str, TensorRef] = {}
    _collect(root, "", code, weights, MAX_DEPTH, [MAX_MODULES])
    findings = dict.fromkeys((*code.findings, *values.findings, *constants.findings, *_stateful(root, code)))

    def build(device: torch.device) -> torch.nn.Module:
        if findings:
            return _load(path, path, device).eval()
        return _built(archive, code, root, constants.value, device).eval()

    return Program(
        NAME,
        path,
        weights,
        metadata={"devices": list(values.locations)},
        build=build,
        class_path=_MANGLED.sub("", root.path),
        code=tuple(findings),
    )


def _is_code(record: str) -> bool:
    return record.startswith("code/") and record.endswith(".py")


def _collect(
    module: Object, prefix: str, code: Code, into: dict[str, TensorRef], depth: int, budget: list[int]
) -> None:
    """Add the module's state_dict to `into`, in torch's order: its own tensors, then its submodules'. One that two
    modules share is there under two names: `budget` bounds how many there are in all."""
    budget[0] -= 1
    if depth == 0 or budget[0] < 0:
        raise MalformedFile(f"TorchScript modules nested more than {MAX_DEPTH} deep, or more than {MAX_MODULES:,}")
    attributes = module.attributes()
    for name in code.tensors.get(module.path, ()):
        value = attributes.get(name)
        if isinstance(value, Call) and value.tensor is not None:
            into[prefix + name] = value.tensor
    for name, value in attributes.items():
        if isinstance(value, Object) and value.path in code.tensors:
            _collect(value, f"{prefix}{name}.", code, into, depth - 1, budget)


def _objects(root: Any) -> Iterator[Object]:
    """Every object, each once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not isinstance(value, (Object, Call, list, tuple, dict)):
            continue
        seen.add(id(value))
        if isinstance(value, Object):
            yield value
            waiting.append(value.state)
        elif isinstance(value, Call):
            waiting.append(value.args)
        else:
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _stateful(root: Object, code: Code) -> Iterator[str]:
    """Objects whose state their own class has to take apart, or that are of no class of the archive."""
    for value in _objects(root):
        known = value.path in code.tensors or script_code.PACKED.match(value.path)
        if not known:
            yield f"an object of {value.path[:120]}, which the archive does not define"
        elif value.path in code.tensors and value.path not in code.with_state and not isinstance(value.state, dict):
            yield f"a state of {value.path[:120]} that is not its attributes"


def _built(archive: Archive, code: Code, root: Object, constants: Any, device: torch.device) -> torch.nn.Module:
    """What torch makes of the archive that is written here, with the file's own tensors in it."""
    lent = dict(_lent(root, code))
    values, fixed = Writer({id(call) for call in lent.values()}), Writer(set())
    try:
        data, constant_data = values.write(root), fixed.write(constants)
    except RecursionError:
        raise MalformedFile(f"{archive.path.name}: TorchScript values nested too deep") from None
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        said = version_of(archive)  # which tells torch what the operators meant when it was saved
        version = "3" if said is None else said
        for name, record in {"version": version, "byteorder": "little", **code.records}.items():
            written.writestr(f"model/{name}", record)
        written.writestr("model/data.pkl", data)
        written.writestr("model/constants.pkl", constant_data)
        for folder, writer in (("data", values), ("constants", fixed)):
            for key, storage in enumerate(writer.storages):
                raw = bytes(8) if storage is None else as_bytes(storage.untyped).numpy().tobytes()
                written.writestr(f"model/{folder}/{key}", raw)
    content.seek(0)
    path, held = in_memory(content, "torchscript")
    with held:
        module = _load(archive.path, path, device)
    _require_allowed(archive.path, module)
    for name, call in lent.items():
        assert call.tensor is not None
        try:
            target: Any = reduce(getattr, name.split("."), module)
            target.data = call.tensor.load().to(device)
        except (AttributeError, TypeError, RuntimeError) as error:
            raise MalformedFile(f"{archive.path.name}: the tensor {name!r} does not fit its module: {error}") from None
    return module


def _lent(root: Object, code: Code) -> Iterator[tuple[str, Call]]:
    """Tensors that are attributes of a module, by where they are: those are put in afterwards."""
    seen: set[int] = set()
    waiting: list[tuple[str, Object]] = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen or module.path in code.with_state:
            continue
        seen.add(id(module))
        for name, value in module.attributes().items():
            if isinstance(value, Object) and value.path in code.tensors:
                waiting.append((f"{prefix}{name}.", value))
            elif name in code.tensors.get(module.path, ()) and isinstance(value, Call) and id(value) not in seen:
                seen.add(id(value))
                if value.tensor is not None and value.tensor.layout == "strided":
                    yield f"{prefix}{name}", value


def _require_allowed(path: Path, module: Any) -> None:
    """Raise `UntrustedCode` for an operator that is not on the list, now that each call's overload is known."""
    strange: dict[str, None] = {}
    for method in _methods(module):
        for node in _nodes(method.graph):
            if node.kind() in _SYNTAX:
                continue
            schema = node.schema()
            if schema == "(no schema)" or _key(schema) not in operators.scripted():
                strange[f"the operator {node.kind()}"] = None
    if strange:
        raise UntrustedCode(
            f"{path.name} calls operators that are not allowed without trust", detail="\n".join(list(strange)[:40])
        )


def _key(schema: str) -> operators.Operator:
    name, _, overload = schema.partition("(")[0].partition(".")
    return name, overload


def _methods(module: Any) -> Iterator[Any]:
    """The methods of a module and of all below it, and every function and class that they call."""
    for part in module.modules():
        for name in part._c._method_names():
            yield part._c._get_method(name)


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes of a graph, with those of its blocks and of the functions that it calls."""
    copy = graph.copy()
    torch._C._jit_pass_inline(copy)
    waiting = list(copy.nodes())
    while waiting:
        node = waiting.pop()
        yield node
        for block in node.blocks():
            waiting.extend(block.nodes())


def _load(original: Path, path: Path, device: torch.device) -> torch.nn.Module:
    try:
        module: torch.nn.Module = torch.jit.load(str(path), map_location=device)
    except Exception as error:  # noqa: BLE001  # torch's reader raises whatever its C++ does
        raise explained(original, error) from None
    return module


def explained(path: Path, error: Exception) -> LoadError:
    """What torch said of a file, as an error of ours: the line that says what is wrong, without the C++ trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0].split(" (most recent call")[0] if lines else type(error).__name__
    kind = VersionTooOld if "newer" in text or "maximum supported version" in text else MalformedFile
    return kind(f"{path.name}: torch {torch.__version__} can't load it: {text}")
