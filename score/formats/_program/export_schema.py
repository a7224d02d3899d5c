"""The JSON of a `.pt2`, checked field by field before anything is made of it.

Source: torch/_export/serde/schema.py, version 8. A record has the fields that are listed and no others; of a union,
exactly one. What is said twice, in `metadata`, is left out: nothing here needs it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from score.errors import MalformedFile, VersionTooOld
from score.formats._io.zip import Archive

VERSION = 8  # the major one, which says that a file can be read
MAX_DEPTH = 64
MAX_INTEGER = 1 << 63

Check = Callable[[Any, int], bool]  # whether a value is of a kind, at a depth


class _Wrong(Exception):
    """A value that is not of its kind; where it is, is put together on the way out."""


@dataclass(frozen=True)
class Record:
    """An object with fields: those that have to be there, and those that may be."""

    required: Mapping[str, Any]
    optional: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Union:
    """An object with just one of several fields."""

    kinds: Mapping[str, Any]


@dataclass(frozen=True)
class ListOf:
    kind: Any


@dataclass(frozen=True)
class MapOf:
    kind: Any


@dataclass(frozen=True)
class Maybe:
    kind: Any


INT, FLOAT, BOOL, STR, ANY = "an integer", "a number", "true or false", "text", "anything"

_HINT = Union({"as_int": INT, "as_bool": BOOL, "as_float": FLOAT})
_EXPRESSION = Record({"expr_str": STR}, {"hint": Maybe(_HINT)})
_SYM_INT = Union({"as_expr": _EXPRESSION, "as_int": INT})
_NAMED = Record({"name": STR})
_DEVICE = Record({"type": STR}, {"index": Maybe(INT)})
TENSOR_META = Record(
    {
        "dtype": INT,
        "sizes": ListOf(_SYM_INT),
        "requires_grad": BOOL,
        "device": _DEVICE,
        "strides": ListOf(_SYM_INT),
        "storage_offset": _SYM_INT,
        "layout": INT,
    }
)
_SYM_INT_ARGUMENT: Union = Union({"as_name": STR, "as_int": INT})
_SYM_FLOAT_ARGUMENT: Union = Union({"as_name": STR, "as_float": FLOAT})
_SYM_BOOL_ARGUMENT: Union = Union({"as_name": STR, "as_bool": BOOL})
_OPTIONAL_TENSOR = Union({"as_tensor": _NAMED, "as_none": ANY})
_CUSTOM = Record({"name": STR, "class_fqn": STR})
_ARGUMENT: Union = Union(
    {
        "as_none": ANY,
        "as_tensor": _NAMED,
        "as_tensors": ListOf(_NAMED),
        "as_int": INT,
        "as_ints": ListOf(INT),
        "as_float": FLOAT,
        "as_floats": ListOf(FLOAT),
        "as_string": STR,
        "as_strings": ListOf(STR),
        "as_sym_int": _SYM_INT_ARGUMENT,
        "as_sym_ints": ListOf(_SYM_INT_ARGUMENT),
        "as_scalar_type": INT,
        "as_memory_format": INT,
        "as_layout": INT,
        "as_device": _DEVICE,
        "as_bool": BOOL,
        "as_bools": ListOf(BOOL),
        "as_sym_bool": _SYM_BOOL_ARGUMENT,
        "as_sym_bools": ListOf(_SYM_BOOL_ARGUMENT),
        "as_graph": lambda: Record({"name": STR, "graph": _GRAPH}),
        "as_optional_tensors": ListOf(_OPTIONAL_TENSOR),
        "as_custom_obj": _CUSTOM,
        "as_operator": STR,
        "as_sym_float": _SYM_FLOAT_ARGUMENT,
        "as_sym_floats": ListOf(_SYM_FLOAT_ARGUMENT),
        "as_optional_tensor": _OPTIONAL_TENSOR,
        "as_complex": Record({"real": FLOAT, "imag": FLOAT}),
        "as_nested_tensors": ListOf(ListOf(_NAMED)),
        "as_int_lists": ListOf(ListOf(INT)),
        "as_string_to_argument": lambda: MapOf(_ARGUMENT),
        "as_float_lists": ListOf(ListOf(FLOAT)),
    }
)
_NODE = Record(
    {
        "target": STR,
        "inputs": ListOf(Record({"name": STR, "arg": _ARGUMENT}, {"kind": Maybe(INT)})),
        "outputs": ListOf(_ARGUMENT),
    },
    {"metadata": ANY, "is_hop_single_tensor_return": Maybe(BOOL), "name": Maybe(STR)},
)
_GRAPH: Record = Record(
    {
        "inputs": ListOf(_ARGUMENT),
        "outputs": ListOf(_ARGUMENT),
        "nodes": ListOf(_NODE),
        "tensor_values": MapOf(TENSOR_META),
        "sym_int_values": MapOf(_SYM_INT),
    },
    {
        "sym_bool_values": MapOf(Union({"as_expr": _EXPRESSION, "as_bool": BOOL})),
        "sym_float_values": MapOf(Union({"as_expr": _EXPRESSION, "as_float": FLOAT})),
        "custom_obj_values": MapOf(_CUSTOM),
        "is_single_tensor_return": BOOL,
    },
)
_CONSTANT = Union({"as_none": ANY, "as_int": INT, "as_float": FLOAT, "as_string": STR, "as_bool": BOOL})
_INPUT = Union(
    {
        "user_input": Record({"arg": _ARGUMENT}),
        "parameter": Record({"arg": _NAMED, "parameter_name": STR}),
        "buffer": Record({"arg": _NAMED, "buffer_name": STR}, {"persistent": BOOL}),
        "tensor_constant": Record({"arg": _NAMED, "tensor_constant_name": STR}),
        "custom_obj": Record({"arg": _CUSTOM, "custom_obj_name": STR}),
        "token": Record({"arg": _NAMED}),
        "constant_input": Record({"name": STR, "value": _CONSTANT}),
    }
)
_OUTPUT = Union(
    {
        "user_output": Record({"arg": _ARGUMENT}),
        "loss_output": Record({"arg": _NAMED}),
        "buffer_mutation": Record({"arg": _NAMED, "buffer_name": STR}),
        "parameter_mutation": Record({"arg": _NAMED, "parameter_name": STR}),
        "gradient_to_parameter": Record({"arg": _NAMED, "parameter_name": STR}),
        "gradient_to_user_input": Record({"arg": _NAMED, "user_input_name": STR}),
        "user_input_mutation": Record({"arg": _NAMED, "user_input_name": STR}),
        "token": Record({"arg": _NAMED}),
    }
)
_CALL = Record(
    {"inputs": ListOf(_ARGUMENT), "outputs": ListOf(_ARGUMENT), "in_spec": STR, "out_spec": STR},
    {"forward_arg_names": Maybe(ListOf(STR))},
)
PROGRAM = Record(
    {
        "graph_module": Record(
            {
                "graph": _GRAPH,
                "signature": Record({"input_specs": ListOf(_INPUT), "output_specs": ListOf(_OUTPUT)}),
                "module_call_graph": ListOf(Record({"fqn": STR}, {"signature": Maybe(_CALL)})),
            },
            {"metadata": ANY, "treespec_namedtuple_fields": MapOf(Record({"field_names": ListOf(STR)}))},
        ),
        "opset_version": MapOf(INT),
        "range_constraints": MapOf(Record({}, {"min_val": Maybe(INT), "max_val": Maybe(INT)})),
        "schema_version": Record({"major": INT, "minor": INT}),
    },
    {"verifiers": ListOf(STR), "torch_version": STR, "guards_code": ListOf(STR), "metadata": ANY},
)
PAYLOAD = Record(
    {
        "config": MapOf(
            Record({"path_name": STR, "use_pickle": BOOL}, {"is_param": BOOL, "tensor_meta": Maybe(TENSOR_META)})
        )
    }
)

_PLAIN: dict[str, Callable[[Any], bool]] = {
    INT: lambda value: type(value) is int and -MAX_INTEGER <= value < MAX_INTEGER,
    FLOAT: lambda value: type(value) in (int, float) or value in ("Infinity", "-Infinity", "NaN"),
    BOOL: lambda value: type(value) is bool,
    STR: lambda value: type(value) is str,
    ANY: lambda value: True,
}


def json_record(archive: Archive, name: str) -> dict[str, Any]:
    """A JSON record of the archive, as an object. Raises `MalformedFile`."""
    try:
        value = orjson.loads(archive.bytes(name))
    except orjson.JSONDecodeError as error:
        raise MalformedFile(f"{archive.path.name}: the record {name!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise MalformedFile(f"{archive.path.name}: the record {name!r} is not a JSON object")
    return value


def checked(archive: Archive, name: str, kind: Any) -> dict[str, Any]:
    """A JSON record that is of `kind`. Raises `MalformedFile` with the place that is not, and `VersionTooOld`."""
    value = json_record(archive, name)
    version = value.get("schema_version")
    major = (
        version.get("major") if isinstance(version, dict) else version
    )  # torch 2.1 and 2.2 wrote one number, or none
    if kind is PROGRAM and major != VERSION:
        raise VersionTooOld(
            f"{archive.path.name}: a torch.export program of schema {major!r:.20}, and {VERSION} is read here",
            hint="Export the model again with the version of torch that is used here (see requirements.lock).",
        )
    try:
        _check(value, kind, MAX_DEPTH)
    except _Wrong as wrong:
        raise MalformedFile(f"{archive.path.name}: {name}{wrong}") from None
    return value


def _check(value: Any, kind: Any, depth: int) -> None:
    if isinstance(kind, str):
        if not _PLAIN[kind](value):
            raise _Wrong(f" is not {kind}")
        return
    if depth == 0:
        raise _Wrong(f" is nested more than {MAX_DEPTH} deep")
    if isinstance(kind, Maybe):
        if value is not None:
            _check(value, kind.kind, depth)
    elif isinstance(kind, ListOf):
        if type(value) is not list:
            raise _Wrong(" is not a list")
        for at, item in enumerate(value):
            _at(item, kind.kind, depth, f"[{at}]")
    elif type(value) is not dict:
        raise _Wrong(" is not an object")
    elif isinstance(kind, MapOf):
        for name, item in value.items():
            _at(item, kind.kind, depth, f"[{name[:80]!r}]")
    else:
        _check_fields(value, kind() if callable(kind) else kind, depth)


def _check_fields(value: dict[str, Any], kind: Any, depth: int) -> None:
    if isinstance(kind, MapOf):
        _check(value, kind, depth)
        return
    if isinstance(kind, Union):
        if len(value) != 1 or not value.keys() <= kind.kinds.keys():
            raise _Wrong(f" has {', '.join(value)[:200] or 'nothing'}, not one field that is known")
        known: Mapping[str, Any] = kind.kinds
    else:
        known = {**kind.required, **(kind.optional or {})}
        if missing := [name for name in kind.required if name not in value]:
            raise _Wrong(f" lacks {', '.join(missing)}")
        if strange := [name for name in value if name not in known]:
            raise _Wrong(f" has {', '.join(strange)[:200]}, which is not known")
    for name, item in value.items():
        _at(item, known[name], depth, f".{name}")


def _at(value: Any, kind: Any, depth: int, place: str) -> None:
    try:
        _check(value, kind, depth - 1)
    except _Wrong as wrong:
        raise _Wrong(f"{place}{wrong}") from None
