"""A Python file read for its definitions: its imports, classes, functions and constants, and nothing that it does.

A file that is named for a class is often the training script. Run as a whole it would train again, and overwrite the
very checkpoint. So a statement at its top level is run only if it defines: an import, a class, a function, or a value
made of constants, names, and calls of what only makes values. What is left out is remembered by name and line, so that
a class that needs it can say so. An import of something that is not installed is left out the same way: most are for
training only.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

# What only makes a value, wherever it is imported from: by the last part of its name.
_MAKING = frozenset(
    [
        "partial",
        "namedtuple",
        "TypeVar",
        "NewType",
        "getLogger",
        "device",
        "dtype",
        "Size",
        "Path",
        "join",
        "dirname",
        "abspath",
        "basename",
        "get",
        "getenv",
        "compile",
        "int",
        "float",
        "bool",
        "str",
        "bytes",
        "tuple",
        "list",
        "dict",
        "set",
        "frozenset",
        "range",
        "len",
        "min",
        "max",
        "sum",
        "abs",
        "round",
        "sorted",
        "zip",
        "enumerate",
        "reversed",
        "map",
        "filter",
        "sqrt",
        "log",
        "exp",
        "pow",
        "floor",
        "ceil",
        "pi",
        "tensor",
        "Tensor",
        "zeros",
        "ones",
        "arange",
        "linspace",
        "eye",
        "full",
        "empty",
        "array",
        "asarray",
        "OrderedDict",
        "defaultdict",
        "Counter",
        "deque",
        "field",
        "super",
        "object",
        "type",
        "isinstance",
        "cast",
        "items",
        "keys",
        "values",
        "format",
        "lower",
        "upper",
        "copy",
        "deepcopy",
        "Literal",
        "Optional",
        "Union",
        "is_available",
        "SimpleNamespace",
        "Namespace",
        "Enum",
        "auto",
    ]
)


@dataclass
class LeftOut:
    """What was not run, by the names that it would have defined: in which line, and why."""

    file: str
    lines: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # names of packages, by what was imported from them

    def why(self, name: str) -> str:
        """In words, what stands in the way of a name; empty where nothing does."""
        if name in self.missing:
            return f"{self.file} imports {name} from {self.missing[name]}, which is not installed"
        if name in self.lines:
            return f"line {self.lines[name]} of {self.file} gives {name}, and does work: it is not run"
        return ""


class _Absent:
    """What stands for something that can't be imported: any use of it says what is missing."""

    def __init__(self, package: str) -> None:
        self.__dict__["package"] = package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)

    def __mro_entries__(self, bases: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)


def execute(tree: ast.Module, module: ModuleType, file: str) -> LeftOut:
    """Run the definitions of a parsed file in `module`. What a definition itself raises, this raises, but for what is
    not installed."""
    left = LeftOut(file)
    _run(list(_defining(tree.body, left)), module, left)
    module.__dict__["__left_out__"] = left
    return left


def left_out(cls: Any, error: BaseException) -> str:
    """Why a class of such a file failed, where that is what was left out of it; empty where it is not."""
    left = getattr(sys.modules.get(getattr(cls, "__module__", "")), "__left_out__", None)
    if not isinstance(left, LeftOut):
        return ""
    if isinstance(error, NameError) and error.name:
        return left.why(error.name)
    if isinstance(error, ModuleNotFoundError) and error.name in left.missing.values():
        return f"{left.file} needs {error.name}, which is not installed"
    return ""


def _defining(body: list[ast.stmt], left: LeftOut) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            if node.value is not None and _only_makes(node.value, left):
                yield node
            else:
                _leave_out(node, left)
        elif isinstance(node, ast.If) and _only_makes(node.test, left):
            kept = list(_defining(node.body, left))
            yield ast.If(node.test, kept or [ast.Pass()], list(_defining(node.orelse, left)))
        elif isinstance(node, ast.Try):
            yield ast.Try(
                list(_defining(node.body, left)) or [ast.Pass()],
                [
                    ast.ExceptHandler(each.type, each.name, list(_defining(each.body, left)) or [ast.Pass()])
                    for each in node.handlers
                ],
                list(_defining(node.orelse, left)),
                list(_defining(node.finalbody, left)),
            )
        else:
            _leave_out(node, left)


def _leave_out(node: ast.stmt, left: LeftOut) -> None:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            left.lines.setdefault(part.id, node.lineno)
        elif isinstance(part, (ast.FunctionDef, ast.ClassDef)):
            left.lines.setdefault(part.name, node.lineno)


def _only_makes(node: ast.expr, left: LeftOut) -> bool:
    """Whether an expression is made of constants, names and calls that only make values."""
    waiting: list[ast.AST] = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.Lambda):
            continue  # what it does, it does when it is called
        waiting.extend(ast.iter_child_nodes(part))
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in left.lines:
            return False  # it is made from what is not there
        if isinstance(part, ast.Call):
            name = part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", "")
            if name not in _MAKING and not _of_torch(part.func):
                return False
        elif isinstance(part, (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)):
            return False
    return True


def _of_torch(function: ast.expr) -> bool:
    """`nn.ReLU(...)`, `torch.nn.Conv2d(...)`: a layer, which is a value."""
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    root = function.id if isinstance(function, ast.Name) else ""
    return bool(parts) and (root == "nn" or (root == "torch" and "nn" in parts)) and parts[0][:1].isupper()


def _run(nodes: list[ast.stmt], module: ModuleType, left: LeftOut) -> None:
    """Statement by statement, so that one whose package is missing leaves the others."""
    for node in nodes:
        statement = ast.fix_missing_locations(ast.Module([node], []))
        try:
            exec(compile(statement, left.file, "exec"), vars(module))  # noqa: S102  # what it is, its caller has decided
        except ModuleNotFoundError as error:
            _absent(node, error.name or "", module, left)
        except NameError as error:
            if not error.name or not left.why(error.name):
                raise
            _leave_out_definition(node, left)


def _absent(node: ast.stmt, package: str, module: ModuleType, left: LeftOut) -> None:
    names: Mapping[str, str] = {}
    if isinstance(node, ast.Import):
        names = {each.asname or each.name.partition(".")[0]: package for each in node.names}
    elif isinstance(node, ast.ImportFrom):
        names = {each.asname or each.name: package for each in node.names}
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        left.missing[node.name] = package
    for name in names:
        if name not in vars(module):
            vars(module)[name] = _Absent(package)
            left.missing[name] = package
    if not names:
        _leave_out_definition(node, left)


def _leave_out_definition(node: ast.stmt, left: LeftOut) -> None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        left.lines.setdefault(node.name, node.lineno)
    else:
        _leave_out(node, left)
