"""What a checked `.pt2` is, before any tensor of it is read: its inputs, its outputs, and what it would call.

Source of the meaning: torch/_export/serde/serialize.py, `GraphModuleDeserializer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from score.errors import MalformedFile
from score.formats._program import operators, symbols

# torch._export.serde.schema: ScalarType, Layout and MemoryFormat, by number
DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
    29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu",
    34: "uint32", 35: "uint64",
}  # fmt: skip
INFINITE = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}
HIGHER = "torch.ops.higher_order."
GRAD, AUTOCAST, IF = "wrap_with_set_grad_enabled", "wrap_with_autocast", "cond"  # operators on graphs
SMALLEST_FREE = 2  # torch.export takes sizes 0 and 1 for special, and so says 2 where it means any


class NotAllowed(Exception):
    """A part of the program that runs only when trusted; the text names it."""


@dataclass(frozen=True)
class Input:
    """A tensor or a number that the program is called with: its sizes as expressions of symbols, or as numbers."""

    name: str
    dtype: str
    sizes: tuple[int | str, ...]
    example: tuple[int, ...]

    @property
    def shape(self) -> tuple[int | None, ...]:
        return tuple(size if isinstance(size, int) else None for size in self.sizes)


@dataclass(frozen=True)
class Plan:
    """A checked program: what is to be built, before any tensor is read."""

    graph: Mapping[str, Any]
    inputs: tuple[Input | None, ...]  # by position among the graph's inputs; None for what is no request's
    bound: tuple[str | None, ...]  # the name of the tensor, by position; None for a request's input
    constants: tuple[Any, ...]
    outputs: tuple[int, ...]  # which of the graph's outputs are the answer
    structure: Any
    ranges: Mapping[str, tuple[int, int]]


def plan(program: Mapping[str, Any], name: str) -> Plan:
    """What a program is, once nothing in it needs trust. Raises `MalformedFile`, and `NotAllowed`."""
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    specs = signature["input_specs"]
    if len(specs) != len(graph["inputs"]) or len(signature["output_specs"]) != len(graph["outputs"]):
        raise MalformedFile(f"{name}: the graph and its signature differ in the number of inputs or outputs")
    inputs: list[Input | None] = []
    bound: list[str | None] = []
    constants: list[Any] = []
    for spec, argument in zip(specs, graph["inputs"], strict=True):
        found, tensor, constant = _input(spec, argument, graph)
        inputs.append(found)
        bound.append(tensor)
        constants.append(constant)
    outputs = tuple(
        at
        for at, spec in enumerate(signature["output_specs"])
        if not spec.keys() & {"buffer_mutation", "parameter_mutation", "user_input_mutation", "token"}
    )
    ranges = {
        symbol: (0 if low <= SMALLEST_FREE else low, high)
        for symbol, entry in program["range_constraints"].items()
        for low, high in [(_or(entry.get("min_val"), 0), _or(entry.get("max_val"), symbols.LIMIT))]
    }
    root = next((call["signature"] for call in module["module_call_graph"] if not call["fqn"]), None)
    fields = module.get("treespec_namedtuple_fields") or {}
    structure = _structure(root["out_spec"], fields, name) if root else None
    return Plan(graph, tuple(inputs), tuple(bound), tuple(constants), outputs, structure, ranges)


def _or(value: int | None, other: int) -> int:
    return other if value is None else value


def _input(spec: Mapping[str, Any], argument: Mapping[str, Any], graph: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    ((kind, entry),) = spec.items()
    if kind in ("parameter", "buffer", "tensor_constant"):
        return None, str(entry[f"{kind}_name"]), None
    if kind == "constant_input":
        return None, None, _constant(entry["value"])
    if kind != "user_input":
        raise NotAllowed(f"an input that is a {kind}")
    ((form, value),) = argument.items()
    if form == "as_tensor":
        return _tensor_input(value["name"], graph), None, None
    if form == "as_sym_int" and "as_name" in value:
        return Input(value["as_name"], "py_int", (), ()), None, None
    if form in ("as_int", "as_float", "as_bool", "as_none", "as_string"):
        return None, None, _constant(argument)  # what it was exported with is part of the program
    raise NotAllowed(f"an input given as {form}")


def _constant(value: Mapping[str, Any]) -> Any:
    ((form, content),) = value.items()
    return None if form == "as_none" else number(content)


def _tensor_input(name: str, graph: Mapping[str, Any]) -> Input:
    meta = graph["tensor_values"].get(name)
    if meta is None or meta["dtype"] not in DTYPES:
        raise MalformedFile(f"the input {name[:80]!r} is of no known dtype")
    sizes: list[int | str] = []
    example: list[int] = []
    for size in meta["sizes"]:
        if "as_int" in size:
            sizes.append(size["as_int"])
            example.append(size["as_int"])
        else:
            sizes.append(size["as_expr"]["expr_str"])
            hint = (size["as_expr"].get("hint") or {}).get("as_int")
            example.append(hint if isinstance(hint, int) and 0 < hint < 1 << 20 else SMALLEST_FREE)
    return Input(name, DTYPES[meta["dtype"]], tuple(sizes), tuple(example))


def _structure(text: str, fields: Mapping[str, Any], name: str) -> Any:
    """The nesting of an answer: None for a value, a list of what a sequence holds, or a dict by key. Types other than
    Python's own are seen as what they hold, by name where they name it."""
    try:
        version, root = orjson.loads(text)
    except (ValueError, TypeError) as error:
        raise MalformedFile(f"{name}: the structure of its outputs is not JSON ({error})") from None
    if version != 1:
        raise MalformedFile(f"{name}: the structure of its outputs is of version {version!r:.40}")
    return _nested(root, fields, name, 32)


def _nested(node: Any, fields: Mapping[str, Any], name: str, depth: int) -> Any:
    if not isinstance(node, dict) or not isinstance(node.get("children_spec"), list) or depth == 0:
        raise MalformedFile(f"{name}: the structure of its outputs is not one that torch writes")
    kind, children = node.get("type"), node["children_spec"]
    if kind is None:
        return None
    parts = [_nested(child, fields, name, depth - 1) for child in children]
    keys = _keys(node.get("context"), fields)
    if len(keys) == len(parts) and len(set(keys)) == len(keys) and keys:
        return dict(zip(keys, parts, strict=True))
    return parts


def _keys(context: Any, fields: Mapping[str, Any]) -> list[str]:
    try:
        found = orjson.loads(context) if isinstance(context, str) else context
    except orjson.JSONDecodeError:
        found = context
    if isinstance(found, str) and found in fields:
        return list(fields[found]["field_names"])
    while isinstance(found, list) and len(found) == 2 and isinstance(found[0], list):  # beside the name of its class
        found = found[0]
    return (
        [str(key) for key in found] if isinstance(found, list) and all(type(key) in (str, int) for key in found) else []
    )


def named_operators(graph: Mapping[str, Any]) -> Iterator[str]:
    """The operators that a graph and the graphs in it name."""
    for node in graph["nodes"]:
        yield node["target"]
        for argument in node["inputs"]:
            yield from _inner(argument["arg"])


def _inner(argument: Mapping[str, Any]) -> Iterator[str]:
    if "as_graph" in argument:
        yield from named_operators(argument["as_graph"]["graph"])
    for value in argument.get("as_string_to_argument", {}).values():
        yield from _inner(value)
    if "as_operator" in argument:
        yield f"{argument['as_operator']} as an argument"


def allowed(target: str) -> bool:
    """Whether an operator is on the list, by the name that a file gives it."""
    if target in symbols.OPERATORS or target.removeprefix(HIGHER) in (GRAD, AUTOCAST, IF):
        return target in symbols.OPERATORS or target.startswith(HIGHER)
    return operator_of(target) is not None


def operator_of(target: str) -> operators.Operator | None:
    parts = target.split(".")
    if len(parts) not in (4, 5) or parts[:2] != ["torch", "ops"]:
        return None
    operators.make_known(parts[2])
    overload = "" if len(parts) == 4 or parts[4] == "default" else parts[4]
    key = f"{parts[2]}::{parts[3]}", overload
    return key if key in operators.functional() else None


def number(value: Any) -> Any:
    return INFINITE.get(value, value) if isinstance(value, str) else value
