"""TorchScript's text: parsed, checked against what is allowed, and written again for torch to read.

What `torch.jit.save` writes is a small language with the syntax of Python. Each statement, each expression, each call
has to be one of those that are known to do no more than compute: operators of the list (`_operators`), methods and
functions that the archive defines itself, and a few words of the language. What is not is named, and needs trust.
What torch then reads is printed from the tree that was checked, so there are no two readings of the same text.

Source: torch/csrc/jit/serialization/python_print.cpp, import_source.cpp; torch/csrc/jit/frontend/parser.cpp.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from score.errors import MalformedFile
from score.formats._program import operators

MAX_BYTES = 32 << 20  # of all text

_STATEMENTS = (
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.If, ast.For, ast.While, ast.Return, ast.Expr, ast.Pass, ast.With),
    *(ast.Break, ast.Continue, ast.Delete),
)
_EXPRESSIONS = (
    *(ast.Call, ast.Name, ast.Attribute, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Subscript, ast.Slice),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.keyword, ast.expr_context, ast.operator),
    *(ast.unaryop, ast.boolop, ast.cmpop, ast.withitem, ast.arguments, ast.arg, ast.Starred),
)
# Words of the language that make or convert a value. `range` and `isinstance` are its syntax.
_WORDS = frozenset(
    [
        "annotate",
        "unchecked_cast",
        "uninitialized",
        "int",
        "float",
        "bool",
        "str",
        "complex",
        "getattr",
        "range",
        "isinstance",
        "len",
        "list",
        "tuple",
        "dict",
        "min",
        "max",
        "abs",
        "round",
        "zip",
        "enumerate",
    ]
)
_RESERVED = frozenset(("torch", "ops", "CONSTANTS", "__torch__", *_WORDS))
_BASES = {"Module", "NamedTuple", "Enum"}
# Objects of torch's own that hold packed weights; making one from its state is how they are read.
PACKED = re.compile(
    r"__torch__\.torch\.classes\.(quantized\.(Linear|Conv2d|Conv3d|Embedding)PackedParamsBase|rnn\.CellParamsBase)\Z"
)
# torch's own modules that pack their weights as they are read.
_PACKING = re.compile(r"__torch__\.torch\.(ao\.)?nn\.(quantized|intrinsic\.quantized|quantizable)(\.\w+)*\Z")
_HIDDEN = re.compile(r"__(?!torch__\Z|_torch_mangle_\d+\Z)")
_LOOPS = (ast.While, ast.For)


@dataclass(frozen=True)
class Code:
    """The checked text, by the name of its record; the names of each class's parameters and buffers; and what of it
    needs trust, in words."""

    records: Mapping[str, str]
    tensors: Mapping[str, list[str]]
    findings: tuple[str, ...]
    with_state: frozenset[str]  # classes that make themselves from a state of their own form


@dataclass
class _Defined:
    """What the archive itself defines."""

    names: set[str] = field(default_factory=set)  # functions and classes, by their path
    methods: set[str] = field(default_factory=set)
    tensors: dict[str, list[str]] = field(default_factory=dict)
    with_state: set[str] = field(default_factory=set)


def read(records: Mapping[str, str], name: str) -> Code:
    """Check the text of an archive: `records` by the name that they have in it, `code/__torch__/models.py`.

    Raises `MalformedFile` for text that is not of the language at all.
    """
    if sum(map(len, records.values())) > MAX_BYTES:
        raise MalformedFile(f"{name}: more than {MAX_BYTES >> 20} MB of TorchScript")
    trees: dict[str, ast.Module] = {}
    defined = _Defined()
    for record, text in records.items():
        try:
            trees[record] = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise MalformedFile(f"{name}: {record} is not TorchScript ({error})") from None
        _collect(trees[record], module_of(record), defined)
    findings: dict[str, None] = {}
    written: dict[str, str] = {}
    for record, tree in trees.items():
        try:
            findings.update(dict.fromkeys(_Checker(defined, module_of(record)).module(tree)))
            written[record] = ast.unparse(_Quoted().visit(tree)) + "\n"
        except RecursionError:
            raise MalformedFile(f"{name}: {record} nests too deep") from None
    return Code(written, defined.tensors, tuple(findings), frozenset(defined.with_state))


def module_of(record: str) -> str:
    """`code/__torch__/models.py` as `__torch__.models`."""
    return record.removeprefix("code/").removesuffix(".py").replace("/", ".")


def _collect(tree: ast.Module, module: str, defined: _Defined) -> None:
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            defined.names.add(f"{module}.{node.name}")
        if isinstance(node, ast.ClassDef):
            path = f"{module}.{node.name}"
            methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            defined.methods |= methods
            if "__setstate__" in methods:
                defined.with_state.add(path)
            listed = {target: value for target, value in _assigned(node) if target in ("__parameters__", "__buffers__")}
            defined.tensors[path] = [
                item.value
                for value in listed.values()
                if isinstance(value, ast.List)
                for item in value.elts
                if isinstance(item, ast.Constant) and isinstance(item.value, str)
            ]


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for part in node.body:
        if isinstance(part, ast.Assign) and len(part.targets) == 1 and isinstance(part.targets[0], ast.Name):
            yield part.targets[0].id, part.value


def _path(node: ast.expr) -> list[str]:
    """`__torch__.models.Net` as its parts; empty for what is no such chain of names."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


class _Checker:
    """Goes over a module of the archive. What it yields is what needs trust, in words."""

    def __init__(self, defined: _Defined, module: str) -> None:
        self.defined, self.module_name = defined, module
        self.functions: set[str] = set()  # local names of the archive's own functions and classes

    def module(self, tree: ast.Module) -> Iterator[str]:
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                yield from self.class_(node)
            elif isinstance(node, ast.FunctionDef):
                yield from self.function(node)
            elif not (isinstance(node, ast.Assign) and all(_path(each) == ["op_version_set"] for each in node.targets)):
                yield f"a statement outside of any function, {_shown(node)}"

    def class_(self, node: ast.ClassDef) -> Iterator[str]:
        bases = {base.id if isinstance(base, ast.Name) else "?" for base in node.bases}
        if not bases <= _BASES or node.decorator_list or node.keywords:
            yield f"a class of another kind than a module, {node.name}({', '.join(sorted(bases))})"
            return
        for part in node.body:
            if isinstance(part, ast.FunctionDef):
                if part.name == "__setstate__":
                    yield from self.set_state(node.name, part)
                yield from self.function(part)
            elif isinstance(part, ast.AnnAssign):
                yield from self.expression(part.annotation)
                if part.value is not None:
                    yield from self.expression(part.value)
            elif isinstance(part, ast.Assign):
                yield from self.expression(part.value)
            elif not isinstance(part, ast.Pass):
                yield f"a statement in a class, {_shown(part)}"

    def set_state(self, cls: str, node: ast.FunctionDef) -> Iterator[str]:
        """What makes an object from its state runs as the file is read: only torch's own packing may."""
        loops = any(isinstance(part, _LOOPS) for part in ast.walk(node))
        if not _PACKING.match(f"{self.module_name}.{cls}") or loops:
            yield f"code that runs as the file is read, {self.module_name}.{cls}.__setstate__"

    def function(self, node: ast.FunctionDef) -> Iterator[str]:
        self.functions = {
            target.id
            for part in ast.walk(node)
            if isinstance(part, ast.Assign) and self.known(part.value)
            for target in part.targets
            if isinstance(target, ast.Name)
        }
        if node.decorator_list:
            yield f"a decorator of {node.name}"
        arguments = node.args
        for argument in (*arguments.args, *arguments.kwonlyargs, *arguments.posonlyargs):
            if argument.arg in _RESERVED:
                yield f"an argument called {argument.arg}"
            if argument.annotation is not None:
                yield from self.expression(argument.annotation)
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                yield from self.expression(default)
        if node.returns is not None:
            yield from self.expression(node.returns)
        yield from self.body(node.body)

    def body(self, statements: list[ast.stmt]) -> Iterator[str]:
        for node in statements:
            if not isinstance(node, _STATEMENTS):
                yield f"a statement that is not of TorchScript, {_shown(node)}"
                continue
            for _, value in ast.iter_fields(node):
                items = value if isinstance(value, list) else [value]
                if items and isinstance(items[0], ast.stmt):
                    yield from self.body(items)
                else:
                    for item in items:
                        if isinstance(item, ast.AST):
                            yield from self.expression(item)

    def expression(self, root: ast.AST) -> Iterator[str]:
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if not isinstance(node, _EXPRESSIONS):
                yield f"an expression that is not of TorchScript, {_shown(node)}"
            elif isinstance(node, ast.Call):
                yield from self.call(node)
                waiting += [*node.args, *node.keywords]
                if isinstance(node.func, ast.Attribute) and not _path(node.func):
                    waiting.append(node.func.value)
            elif isinstance(node, ast.Attribute):
                path = _path(node)
                if path[:1] == ["__torch__"]:
                    if not self.known_type(path):
                        yield f"the class {'.'.join(path)[:120]}"
                    continue
                if _HIDDEN.match(node.attr):
                    yield f"the attribute {node.attr[:120]}"
                waiting.append(node.value)
            else:
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in _RESERVED:
                    yield f"a variable called {node.id}"
                waiting.extend(ast.iter_child_nodes(node))

    def call(self, node: ast.Call) -> Iterator[str]:
        function, path = node.func, _path(node.func)
        if isinstance(function, ast.Name):
            if function.id not in _WORDS and function.id not in self.functions:
                yield f"the function {function.id[:120]}"
        elif path[:1] == ["torch"] and len(path) == 2:
            yield from self.operator(f"aten::{path[1]}")
        elif path[:1] == ["ops"] and len(path) == 3:
            yield from self.operator(f"{path[1]}::{path[2]}")
        elif path[:1] in (["torch"], ["ops"], ["CONSTANTS"]):
            yield f"the function {'.'.join(path)[:120]}"
        elif path[:1] == ["__torch__"]:
            if not self.known_type(path):
                yield f"the function {'.'.join(path)[:120]}"
        elif isinstance(function, ast.Attribute):
            yield from self.method(function.attr)
        else:
            yield f"a call of {_shown(function)}"

    def operator(self, name: str) -> Iterator[str]:
        operators.make_known(name.partition("::")[0])
        if name not in operators.scripted_names():
            yield f"the operator {name[:120]}"

    def method(self, name: str) -> Iterator[str]:
        """A method is the archive's own, or, of a tensor, an operator; one that could be either has to be allowed."""
        if name in self.defined.methods and name not in operators.registered_names():
            return
        if f"aten::{name}" not in operators.scripted_names():
            yield f"the operator aten::{name[:120]}"

    def known(self, node: ast.expr) -> bool:
        """Whether an expression is one of the archive's own functions or classes, or a new object of one."""
        if isinstance(node, ast.Call):
            path = _path(node.func)
            return path[-1:] == ["__new__"] and self.known_type(path[:-1])
        return self.known_type(_path(node))

    def known_type(self, path: list[str]) -> bool:
        if path[:1] != ["__torch__"]:
            return False
        text = ".".join(path)
        owner = text.rpartition(".")[0]  # of a method, or of a member of an Enum
        return text in self.defined.names or bool(PACKED.match(text)) or owner in self.defined.names


class _Quoted(ast.NodeTransformer):
    """Text as torch's lexer reads it, which knows fewer escapes than Python's."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str):
            return node
        return ast.copy_location(ast.Name(_quoted(node.value), ast.Load()), node)


_ESCAPES = {0x5C: "\\\\", 0x22: '\\"', 0x0A: "\\n", 0x09: "\\t", 0x0D: "\\r"}


def _quoted(text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    shown = (_ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in raw)
    return f'"{"".join(shown)}"'


def _shown(node: ast.AST) -> str:
    return f"{type(node).__name__} in line {getattr(node, 'lineno', 0)}"
