"""What torch.export.load would run if it were given this file.

A `.pt2` looks like data and is not: torch unpickles records flagged `use_pickle` (and, if its own safe unpickler
fails, sample inputs), evaluates `expr_str` with sympy (which calls Python's eval), resolves operators by walking
attributes from the torch package, and generates Python source from the graph's names. So everything that has such an
effect must be of the plain form that torch itself writes; what is not, is a finding, and needs the operator's trust.
"""

import ast
import re
from collections.abc import Iterator
from typing import Any

import orjson

from score.errors import LoadError, MalformedFile
from score.formats._pickled import read_pickle
from score.formats._tensors import StorageRef
from score.formats._zip import Archive

_OPERATOR = re.compile(
    r"(torch\.ops\.(?!_?load_)(?!.*__)\w+\.\w+(\.\w+)?"  # an operator by namespace, name and overload
    r"|torch\.sym_\w+|_operator\.(?!.*__)(?!call|attrgetter|methodcaller)\w+|math\.\w+)\Z"
)
_SYMBOL = re.compile(r"[a-z]{1,3}\d+\Z")  # sympy evaluates strings too, where a function takes an expression
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_QUALIFIED = re.compile(r"[\w.\-]*\Z")
_NAME_KEYS = {"name", "user_input_name", "input_name", "output_name"}
_QUALIFIED_KEYS = {
    "parameter_name", "buffer_name", "tensor_constant_name", "user_input_mutation", "buffer_mutated",
    "custom_obj_name", "graph_name", "fqn",
}  # fmt: skip
_FUNCTIONS = {
    "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv",
    "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt",
    "RoundToInt", "RoundDecimal", "ToFloat", "Identity", "Max", "Min", "Abs", "And", "Or", "Not", "Eq", "Ne", "Lt",
    "Le", "Gt", "Ge", "floor", "ceiling", "sqrt", "Pow", "Mul", "Add", "Integer", "Float", "Symbol",
    "IsNonOverlappingAndDenseIndicator", "OpaqueUnaryFn_sqrt",
}  # fmt: skip
_EXPRESSION = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Constant, ast.Name, ast.Load, ast.Call,
    ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_TREE_TYPES = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}


def json_record(archive: Archive, name: str) -> dict[str, Any]:
    """A JSON record of the archive, as an object. Raises `MalformedFile`."""
    try:
        value = orjson.loads(archive.bytes(name))
    except orjson.JSONDecodeError as error:
        raise MalformedFile(f"{archive.path.name}: the record {name!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise MalformedFile(f"{archive.path.name}: the record {name!r} is not a JSON object")
    return value


def findings(archive: Archive) -> tuple[str, ...]:
    """What loading would run, in words; empty for a file that is plain data."""
    found: dict[str, None] = {}
    for record in archive.names():
        if record.endswith("_config.json"):
            found.update(dict.fromkeys(_payload(json_record(archive, record))))
        elif record.endswith(".json"):
            found.update(dict.fromkeys(_walk(json_record(archive, record))))
        elif record.endswith(".pt"):
            found.update(dict.fromkeys(_nested(archive, record)))
    return tuple(found)


def _payload(config: dict[str, Any]) -> Iterator[str]:
    entries = config.get("config")
    for name, entry in (entries if isinstance(entries, dict) else {}).items():
        if not _QUALIFIED.match(name):
            yield f"the weight name {name[:80]!r}, as Python source"
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            yield f"a pickle, for {name}"


def _nested(archive: Archive, record: str) -> Iterator[str]:
    """A torch.save file inside the archive: what its pickle names beyond the safe list."""
    content = archive.bytes(record)
    if not content:
        return
    data = _data_pkl(content)
    if data is None:
        yield f"a pickle, in {record}"
        return
    try:
        unsafe = read_pickle(data, lambda key, dtype, nbytes: StorageRef(dtype, nbytes, _never), name=record).unsafe
    except LoadError:
        yield f"a pickle that can't be read safely, in {record}"
        return
    for name in unsafe:
        yield f"{name}, in {record}"


def _never() -> Any:
    raise AssertionError("an audit reads no tensors")


def _data_pkl(content: bytes) -> bytes | None:
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            names = [name for name in inner.namelist() if name.rpartition("/")[2] == "data.pkl"]
            return inner.read(names[0]) if len(names) == 1 else None
    except Exception:  # noqa: BLE001  # zipfile raises anything on damaged data; what can't be read is a finding
        return None


def _walk(root: Any) -> Iterator[str]:
    """Every string of the graph that torch evaluates, resolves, or makes source from."""
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, list):
            waiting.extend((key, item) for item in value)
        elif isinstance(value, dict):
            if key == "range_constraints":
                yield from (f"the expression {name[:80]!r}" for name in value if not is_plain_expression(name))
            if key in ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "custom_obj_values"):
                yield from (f"the name {name[:80]!r}, as Python source" for name in value if not _NAME.match(name))
            waiting.extend(item for item in value.items() if item[0] != "metadata")
        elif isinstance(value, str):
            yield from _judge(key, value)


def _judge(key: str, value: str) -> Iterator[str]:
    if key in ("target", "as_operator") and not _OPERATOR.match(value):
        yield f"the operator {value[:80]!r}"
    elif key == "expr_str" and not is_plain_expression(value):
        yield f"the expression {value[:80]!r}"
    elif (key in _NAME_KEYS and value and not _NAME.match(value)) or (
        key in _QUALIFIED_KEYS and not _QUALIFIED.match(value)
    ):
        yield f"the name {value[:80]!r}, as Python source"
    elif key in ("in_spec", "out_spec") and value and not _is_plain_tree(value):
        yield f"the input or output types {value[:80]!r}"


def is_plain_expression(text: str) -> bool:
    """Whether a sympy expression is arithmetic on symbols, with none of what `eval` could be misused for."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_plain_node(node) for node in nodes)


def _is_plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
    if isinstance(node, ast.keyword):  # Symbol('s0', positive=True, integer=True)
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float)) or (isinstance(node.value, str) and bool(_SYMBOL.match(node.value)))
    if isinstance(node, ast.Name):
        return "__" not in node.id
    return isinstance(node, _EXPRESSION)


def _is_plain_tree(text: str) -> bool:
    """Whether a pytree specification names only builtin containers and plain keys."""
    try:
        waiting: list[Any] = [orjson.loads(text)]
    except orjson.JSONDecodeError:
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if value.get("type") not in _TREE_TYPES or not _is_plain_context(value.get("context")):
                return False
            waiting.append(value.get("children_spec"))
    return True


def _is_plain_context(context: Any) -> bool:
    try:
        keys = orjson.loads(context) if isinstance(context, str) else context
    except orjson.JSONDecodeError:
        return False
    if keys is None:
        return True
    return isinstance(keys, list) and all(
        isinstance(key, int) or (isinstance(key, str) and _NAME.match(key)) for key in keys
    )
