"""torch.fx's text: what a traced module computes, read into steps that are run here.

torch.fx writes a function of one statement a node: a part of the module, a function of torch's, a method of a tensor,
or Python's arithmetic, of values that were computed before. Each has to be one of those that are known to do no more
than compute (`operators`); what is not is named. The text is never given to Python.

Source: torch/fx/graph.py, `CodeGen`.
"""

from __future__ import annotations

import ast
import inspect
import math
import operator as python
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from score.formats._program import fx_values, operators

MAX_BYTES, MAX_STEPS, MAX_NESTED = 4 << 20, 100_000, 50
Values = dict[str, Any]
Expression = Callable[[Values], Any]
Parts = Callable[[tuple[str, ...]], Any]
"""A part of the module by its path: another module, or a tensor. Raises `NotAllowed` where there is none."""

_FUNCTIONAL = frozenset(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear celu channel_shuffle conv1d
    conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cosine_similarity dropout dropout1d dropout2d
    dropout3d elu embedding embedding_bag feature_alpha_dropout fold gelu glu grid_sample affine_grid group_norm
    hardshrink hardsigmoid hardswish hardtanh instance_norm interpolate layer_norm leaky_relu linear local_response_norm
    log_softmax logsigmoid lp_pool1d lp_pool2d max_pool1d max_pool2d max_pool3d mish multi_head_attention_forward
    normalize one_hot pad pairwise_distance pixel_shuffle pixel_unshuffle prelu relu relu6 rms_norm
    scaled_dot_product_attention selu sigmoid silu softmax softmin softplus softshrink softsign tanh tanhshrink
    threshold unfold upsample
    """.split()  # noqa: SIM905
)
_INFIX: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: python.add, ast.Sub: python.sub, ast.Mult: python.mul, ast.Div: python.truediv, ast.Mod: python.mod,
    ast.FloorDiv: python.floordiv, ast.MatMult: python.matmul, ast.Pow: python.pow, ast.BitAnd: python.and_,
    ast.BitOr: python.or_, ast.BitXor: python.xor, ast.LShift: python.lshift, ast.RShift: python.rshift,
    ast.USub: python.neg, ast.UAdd: python.pos, ast.Invert: python.invert, ast.Not: python.not_,
    ast.Eq: python.eq, ast.NotEq: python.ne, ast.Lt: python.lt, ast.LtE: python.le, ast.Gt: python.gt,
    ast.GtE: python.ge,
}  # fmt: skip
_BY_NAME = frozenset(
    """
    add sub mul truediv floordiv mod matmul pow and_ or_ xor lshift rshift neg pos invert not_ eq ne lt le gt ge getitem
    iadd isub imul itruediv
    """.split()  # noqa: SIM905
)
_MATH = frozenset(("ceil", "floor", "sqrt", "log", "exp", "prod", "trunc"))
_NAMES = {"inf": math.inf, "nan": math.nan, "device": torch.device}
_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)


class NotAllowed(ValueError):
    """Something in the text that is not known to do no more than compute; the text names it."""


@dataclass(frozen=True)
class Function:
    """A traced module's function: its inputs, its steps in order, each with the names that it gives, and what it
    answers."""

    inputs: inspect.Signature
    steps: tuple[tuple[tuple[str, ...], Expression], ...]
    answer: Expression

    def __call__(self, values: Values) -> Any:
        for names, compute in self.steps:
            value = compute(values)
            for name in names:
                values[name] = value
        return self.answer(values)


def read(text: str, parts: Parts) -> Function:
    """Raises `NotAllowed`."""
    if len(text) > MAX_BYTES:
        raise NotAllowed("more text than a traced module has")
    try:
        tree = ast.parse(text)
        (function,) = [each for each in tree.body if not _declares(each)]
        if not isinstance(function, ast.FunctionDef) or function.name != "forward" or function.decorator_list:
            raise NotAllowed("text that is not of one function, forward")
        return _Reader(parts).function(function)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, NotAllowed):
            raise
        raise NotAllowed(f"text that torch.fx does not write: {error}") from None


class _Reader:
    """Reads one function: expressions to what computes them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._known: set[str] = set()  # names that have a value

    def function(self, node: ast.FunctionDef) -> Function:
        given = node.args
        if given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg or len(node.body) > MAX_STEPS:
            raise NotAllowed("a function with inputs that torch.fx does not give it")
        names = [each.arg for each in given.args]
        if names[:1] != ["self"] or len(set(names)) != len(names):
            raise NotAllowed("a function without self")
        if any(isinstance(part, ast.Call) for each in given.defaults for part in ast.walk(each)):
            raise NotAllowed("an input whose default is computed")
        defaults = [self.expression(each, MAX_NESTED)({}) for each in given.defaults]
        empty = [inspect.Parameter.empty] * (len(names) - 1 - len(defaults))
        inputs = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            for name, default in zip(names[1:], [*empty, *defaults], strict=True)
        ]
        self._known.update(names[1:])
        *body, last = node.body
        steps = tuple(filter(None, map(self._step, body)))
        if not isinstance(last, ast.Return) or last.value is None:
            raise NotAllowed("a function that does not end in its answer")
        return Function(inspect.Signature(inputs), steps, self.expression(last.value, MAX_NESTED))

    def _step(self, node: ast.stmt) -> tuple[tuple[str, ...], Expression] | None:
        if isinstance(node, ast.Expr):
            return (), self.expression(node.value, MAX_NESTED)
        value = getattr(node, "value", None)
        targets: list[ast.expr] = list(node.targets) if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if not targets or value is None or not all(isinstance(each, ast.Name) for each in targets):
            raise NotAllowed(f"a statement {ast.unparse(node)[:100]!r}")
        names = tuple(each.id for each in targets)  # type: ignore[attr-defined]
        if {"self", "torch", "operator", "math"} & set(names):
            raise NotAllowed(f"a value called {names[0]}")
        computed = self.expression(value, MAX_NESTED)
        self._known.update(names)
        return names, computed

    def expression(self, node: ast.expr, depth: int) -> Expression:
        read = _READERS.get(type(node))
        if read is None or depth == 0:
            raise NotAllowed(f"an expression {ast.unparse(node)[:100]!r}")
        return read(self, node, depth - 1)

    def _all(self, nodes: list[Any], depth: int) -> list[Expression]:
        return [self.expression(each, depth) for each in nodes]

    def constant(self, node: ast.Constant, depth: int) -> Expression:
        value = node.value
        if isinstance(value, bytes):
            raise NotAllowed("bytes")
        return lambda _values: value

    def name(self, node: ast.Name, depth: int) -> Expression:
        name = node.id
        if name in self._known:
            return lambda values: values[name]
        if name in _NAMES:
            return lambda _values: _NAMES[name]
        raise NotAllowed(f"the name {name}")

    def sequence(self, node: ast.Tuple | ast.List, depth: int) -> Expression:
        kind, items = (tuple if isinstance(node, ast.Tuple) else list), self._all(node.elts, depth)
        return lambda values: kind(each(values) for each in items)

    def mapping(self, node: ast.Dict, depth: int) -> Expression:
        if None in node.keys:
            raise NotAllowed("a mapping of what another one holds")
        keys, items = self._all(node.keys, depth), self._all(node.values, depth)
        return lambda values: {key(values): item(values) for key, item in zip(keys, items, strict=True)}

    def infix(self, node: Any, depth: int) -> Expression:
        if isinstance(node, ast.Compare):
            if len(node.ops) != 1:
                raise NotAllowed("several comparisons at once")
            sign, given = node.ops[0], [node.left, node.comparators[0]]
        else:
            sign, given = node.op, [node.left, node.right] if isinstance(node, ast.BinOp) else [node.operand]
        kind: type[ast.AST] = type(sign)
        if kind not in _INFIX:
            raise NotAllowed(f"the operator {kind.__name__}")
        compute, items = _INFIX[kind], self._all(given, depth)
        return lambda values: fx_values.calculated(compute, [each(values) for each in items])

    def subscript(self, node: ast.Subscript, depth: int) -> Expression:
        value, at = self.expression(node.value, depth), self.expression(node.slice, depth)
        return lambda values: fx_values.taken(value(values), at(values))

    def slice(self, node: ast.Slice, depth: int) -> Expression:
        parts = [None if each is None else self.expression(each, depth) for each in (node.lower, node.upper, node.step)]
        return lambda values: slice(*(None if each is None else each(values) for each in parts))

    def attribute(self, node: ast.Attribute, depth: int) -> Expression:
        if (path := _path(node)) is not None:
            self._parts(path)  # it is there
            return lambda _values: self._parts(path)
        dotted = _dotted(node)
        if dotted and dotted[0] == "torch" and "torch" not in self._known:
            found = vars(torch).get(dotted[1]) if len(dotted) == 2 else None
            if isinstance(found, _CONSTANTS):
                return lambda _values: found
            raise NotAllowed(f"{'.'.join(dotted)}, which is no constant")
        value, name = self.expression(node.value, depth), node.attr
        if name not in fx_values.ATTRIBUTES:
            raise NotAllowed(f"a value's {name[:100]}")
        return lambda values: fx_values.attribute(value(values), name)

    def call(self, node: ast.Call, depth: int) -> Expression:
        named_by = {each.arg for each in node.keywords}
        if any(isinstance(each, ast.Starred) for each in node.args) or {None, "out"} & named_by:
            raise NotAllowed("a call with a list of arguments, or that writes into one")
        if (path := _path(node)) is not None:  # getattr(self.layers, "0")
            self._parts(path)
            return lambda _values: self._parts(path)
        function = self._function(node, depth)
        given = self._all(node.args, depth)
        named = {str(each.arg): self.expression(each.value, depth) for each in node.keywords}
        return lambda values: function(
            values, [each(values) for each in given], {name: each(values) for name, each in named.items()}
        )

    def _function(self, node: ast.Call, depth: int) -> Callable[[Values, list[Any], dict[str, Any]], Any]:
        """What a call calls, given the values, its arguments and those by name."""
        called = node.func
        if (path := _path(called)) is not None:
            module = self._parts(path)
            if not isinstance(module, torch.nn.Module):
                raise NotAllowed(f"a call of {'.'.join(path)}, which is no module")
            return lambda _values, given, named: module(*given, **named)
        dotted = _dotted(called)
        if dotted and dotted[0] not in self._known:
            found = _known_function(dotted)
            if found is None:
                raise NotAllowed(f"a call of {'.'.join(dotted)}")
            return lambda _values, given, named: found(*given, **named)
        if isinstance(called, ast.Attribute):
            value, name = self.expression(called.value, depth), called.attr
            if not fx_values.is_method(name):
                raise NotAllowed(f"a call of a tensor's {name}")
            return lambda values, given, named: fx_values.method(value(values), name, given, named)
        raise NotAllowed(f"a call of {ast.unparse(called)[:100]!r}")


_READERS: Mapping[type[ast.AST], Callable[[_Reader, Any, int], Expression]] = {
    ast.Constant: _Reader.constant,
    ast.Name: _Reader.name,
    ast.Tuple: _Reader.sequence,
    ast.List: _Reader.sequence,
    ast.Dict: _Reader.mapping,
    ast.BinOp: _Reader.infix,
    ast.UnaryOp: _Reader.infix,
    ast.Compare: _Reader.infix,
    ast.Subscript: _Reader.subscript,
    ast.Slice: _Reader.slice,
    ast.Attribute: _Reader.attribute,
    ast.Call: _Reader.call,
}


def _known_function(dotted: tuple[str, ...]) -> Callable[..., Any] | None:
    """A function by its path: torch's operators, those of torch.nn.functional, Python's arithmetic."""
    *package, name = dotted
    where, name = ".".join(package), operators.ZEROED.get(name, name)  # nothing comes as it was found in memory
    if dotted == ("torch", "_assert"):
        return fx_values.require
    if where in ("torch", "torch.functional", "torch._C._nn"):
        known = not name.startswith("_") and f"aten::{name}" in operators.scripted_names()
        return getattr(torch._C._nn if where == "torch._C._nn" else torch, name, None) if known else None
    if where in ("torch.nn.functional", "F") and name in _FUNCTIONAL:
        return getattr(functional, name, None)
    if package[:2] == ["torch", "ops"] and len(dotted) in (4, 5):
        namespace, bare, overload = (*dotted[2:], "")[:3]
        key = (f"{namespace}::{bare}", "" if overload == "default" else overload)
        return operators.resolve(*key) if key in operators.functional() and bare not in operators.ZEROED else None
    if where in ("operator", "_operator") and name in _BY_NAME:
        if name == "getitem":
            return fx_values.taken
        compute = getattr(python, name)
        return lambda *given: fx_values.calculated(compute, list(given))
    if where == "math" and name in _MATH:
        return getattr(math, name, None)
    return fx_values.WORDS.get(name) if not package else None


def _declares(node: ast.stmt) -> bool:
    """Whether a statement beside the function is of the kind that torch.fx writes there, for Python alone to need."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return (_dotted(node.value.func) or ())[:3] == ("torch", "fx", "_symbolic_trace")
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _dotted(node: ast.expr) -> tuple[str, ...] | None:
    """`a.b.c` as its words; None for anything else."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    return (node.id, *reversed(words)) if isinstance(node, ast.Name) else None


def _path(node: ast.expr) -> tuple[str, ...] | None:
    """`self.layers`, and `getattr(self.layers, "0")`, as the path below `self`; None for anything else."""
    words: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            words.append(node.attr)
            node = node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
            and len(node.args) == 2
            and not node.keywords
            and isinstance(node.args[1], ast.Constant)
        ):
            words.append(str(node.args[1].value))
            node = node.args[0]
        else:
            return None
    return tuple(reversed(words)) if node.id == "self" and words else None
