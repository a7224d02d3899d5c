"""The sizes of a `.pt2` that are not fixed: `Mul(Integer(2), Symbol('s0', positive=True, integer=True))`, `2*s0 + 1`.

torch hands these to sympy, which evaluates them as Python. Here is all that may stand in one:

    expression = comparison
    comparison = sum [("<=" | ">=" | "<" | ">" | "==" | "!=") sum]
    sum        = product {("+" | "-") product}
    product    = unary {("*" | "//" | "/" | "%") unary}
    unary      = "-" unary | power
    power      = atom ["**" unary]
    atom       = number | "(" expression ")" | "Symbol" "('" name "'" {", " word "=" ("True" | "False")} ")"
               | function "(" expression {"," expression} ")" | name

Every intermediate value is bounded, so that no power or shift takes all memory.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

MAX_LENGTH = 4000
MAX_TERMS = 200  # of one sum or product
MAX_DEPTH = 60
LIMIT = 1 << 63

Value = int | float | bool
Expression = Callable[[Mapping[str, int]], Value]

_TOKEN = re.compile(
    r"\s*(?:(\d+\.\d*(?:e[+-]?\d+)?|\d+)|([A-Za-z_]\w*)|('[a-z]{1,8}\d+')|(\*\*|//|<=|>=|==|!=|[-+*/%(),<>=]))"
)
_DECLARED = "Symbol"
_NAME = re.compile(r"[a-z]{1,8}\d+\Z")


class NotAnExpression(ValueError):
    """Text that is not of the grammar."""


class OutOfBounds(ValueError):
    """A value that no size has."""


def bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of Python numbers that takes and gives none beyond 64 bits, and so is done in no time."""

    def call(*values: Any) -> Any:
        for value in values:
            if not isinstance(value, (bool, int, float)) or abs(value) >= LIMIT:
                raise OutOfBounds(f"{value!r:.40} in the arithmetic of sizes")
        found = function(*values)
        if isinstance(found, int) and abs(found) >= LIMIT:
            raise OutOfBounds(f"the arithmetic of sizes gives more than {LIMIT:,}")
        return found

    return call


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and abs(exponent) > 64:
        raise OutOfBounds(f"{base} ** {exponent} in the arithmetic of sizes")
    return base**exponent


def _shift_left(value: Any, count: Any) -> Any:
    if not 0 <= count <= 64:
        raise OutOfBounds(f"a shift by {count} in the arithmetic of sizes")
    return value << count


def _if(condition: Any, one: Any, other: Any) -> Any:
    return one if condition else other


# What torch names a function of sizes, in expressions and as a graph's own operators.
_PLAIN_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda *values: sum(values),
    "Mul": lambda *values: math.prod(values),
    "Pow": _power,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "CeilDiv": lambda a, b: -(-a // b),
    "IntTrueDiv": operator.truediv,
    "FloatTrueDiv": operator.truediv,
    "PowByNatural": _power,
    "FloatPow": _power,
    "LShift": _shift_left,
    "RShift": operator.rshift,
    "ModularIndexing": lambda base, divisor, modulus: base // divisor % modulus,
    "Where": _if,
    "Max": lambda *values: max(values),
    "Min": lambda *values: min(values),
    "Abs": abs,
    "Integer": int,
    "Float": float,
    "ToFloat": float,
    "TruncToInt": math.trunc,
    "TruncToFloat": lambda value: float(math.trunc(value)),
    "FloorToInt": math.floor,
    "CeilToInt": math.ceil,
    "RoundToInt": round,
    "floor": math.floor,
    "ceiling": math.ceil,
    "sqrt": math.sqrt,
    "OpaqueUnaryFn_sqrt": math.sqrt,
    "Identity": lambda value: value,
    "Not": operator.not_,
    "And": lambda *values: all(values),
    "Or": lambda *values: any(values),
    "Eq": operator.eq,
    "Ne": operator.ne,
    "Equality": operator.eq,
    "Unequality": operator.ne,
    "Lt": operator.lt,
    "Le": operator.le,
    "Gt": operator.gt,
    "Ge": operator.ge,
    "LessThan": operator.le,
    "StrictLessThan": operator.lt,
    "GreaterThan": operator.ge,
    "StrictGreaterThan": operator.gt,
    "Rational": operator.truediv,
}
FUNCTIONS = {name: bounded(function) for name, function in _PLAIN_FUNCTIONS.items()}
_COMPARISONS = {"<=": "Le", ">=": "Ge", "<": "Lt", ">": "Gt", "==": "Eq", "!=": "Ne"}
_SUMS = {"+": operator.add, "-": operator.sub}
_PRODUCTS = {"*": operator.mul, "//": operator.floordiv, "/": operator.truediv, "%": operator.mod}

# A graph's operators on sizes, by the names that torch.export writes.
_OF_OPERATOR = "eq ne le ge lt gt neg pos add sub mul floordiv truediv mod and_ or_ xor rshift not_"
_PLAIN_OPERATORS: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in _OF_OPERATOR.split()},
    "_operator.pow": _power,
    "_operator.lshift": _shift_left,
    **{f"math.{name}": getattr(math, name) for name in ("trunc", "floor", "ceil", "sqrt")},
    "torch.sym_ite": _if,
    "torch.sym_not": operator.not_,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_sqrt": math.sqrt,
    "torch._sym_sqrt": math.sqrt,
}
OPERATORS = {name: bounded(function) for name, function in _PLAIN_OPERATORS.items()}


@lru_cache(4096)
def parse(text: str) -> Expression:
    """The expression as a function of its symbols' values. Raises `NotAnExpression`.

    What is evaluated may raise `OutOfBounds`, `ZeroDivisionError`, or `KeyError` for a symbol that has no value.
    """
    if len(text) > MAX_LENGTH:
        raise NotAnExpression(f"an expression of {len(text):,} characters")
    parser = _Parser(text)
    found = parser.comparison(MAX_DEPTH)
    if parser.kind is not None:
        raise NotAnExpression(f"{parser.token!r} where the expression ends")
    return found


def symbol(text: str) -> str | None:
    """The name of the symbol that an expression consists of; None where it is more than one."""
    found = re.fullmatch(r"(?:Symbol\('([a-z]{1,8}\d+)'(?:, \w+=(?:True|False))*\)|([a-z]{1,8}\d+))", text)
    return found and (found[1] or found[2])


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.kind: int | None = None
        self.token = ""
        self.advance()

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            if self.text[self.position :].strip():
                raise NotAnExpression(f"{self.text[self.position :][:20]!r} is no part of an expression")
            self.kind, self.token = None, ""
            return
        self.kind, self.token, self.position = match.lastindex, match[match.lastindex or 0], match.end()

    def at(self, sign: str) -> bool:
        return self.kind == 4 and self.token == sign

    def take(self, token: str) -> None:
        if self.token != token or self.kind != 4:
            raise NotAnExpression(f"{self.token!r} where {token!r} belongs")
        self.advance()

    def comparison(self, depth: int) -> Expression:
        if depth == 0:
            raise NotAnExpression("an expression nested too deep")
        left = self.sum(depth)
        if self.kind == 4 and self.token in _COMPARISONS:
            function = FUNCTIONS[_COMPARISONS[self.token]]
            self.advance()
            return _apply(function, [left, self.sum(depth)])
        return left

    def sum(self, depth: int) -> Expression:
        return self.chain(_SUMS, lambda: self.product(depth))

    def product(self, depth: int) -> Expression:
        return self.chain(_PRODUCTS, lambda: self.unary(depth))

    def chain(self, functions: Mapping[str, Callable[..., Any]], part: Callable[[], Expression]) -> Expression:
        found = part()
        for _ in range(MAX_TERMS):
            if self.kind != 4 or self.token not in functions:
                return found
            function = bounded(functions[self.token])
            self.advance()
            found = _apply(function, [found, part()])
        raise NotAnExpression(f"an expression of more than {MAX_TERMS} terms")

    def unary(self, depth: int) -> Expression:
        if depth == 0:
            raise NotAnExpression("an expression nested too deep")
        if self.at("-"):
            self.advance()
            return _apply(bounded(operator.neg), [self.unary(depth - 1)])
        base = self.atom(depth)
        if self.at("**"):
            self.advance()
            return _apply(FUNCTIONS["Pow"], [base, self.unary(depth - 1)])
        return base

    def atom(self, depth: int) -> Expression:
        kind, token = self.kind, self.token
        if kind == 1:
            if len(token) > 25:
                raise NotAnExpression("a number of many digits")
            value: Value = float(token) if "." in token else int(token)
            self.advance()
            return lambda values: value
        if self.at("("):
            self.advance()
            found = self.comparison(depth - 1)
            self.take(")")
            return found
        if kind != 2:
            raise NotAnExpression(f"{token!r} where a value belongs")
        self.advance()
        if not self.at("("):
            return self.name(token)
        self.advance()
        if token == _DECLARED:
            return self.declared()
        if token not in FUNCTIONS:
            raise NotAnExpression(f"the function {token!r}")
        given = [self.comparison(depth - 1)]
        while self.at(","):
            self.advance()
            given.append(self.comparison(depth - 1))
        self.take(")")
        return _apply(FUNCTIONS[token], given)

    def name(self, token: str) -> Expression:
        if token in ("oo", "int_oo"):
            return lambda values: LIMIT - 1
        if token in ("True", "False"):
            truth = token.startswith("T")
            return lambda values: truth
        if not _NAME.match(token):
            raise NotAnExpression(f"the name {token!r}")
        return lambda values: values[token]

    def declared(self) -> Expression:
        """After `Symbol(`: the name, and what is assumed of it."""
        if self.kind != 3:
            raise NotAnExpression(f"a symbol named {self.token!r}")
        name = self.token[1:-1]
        self.advance()
        while self.at(","):
            self.advance()
            word = self.kind
            self.advance()
            self.take("=")
            if word != 2 or self.token not in ("True", "False"):
                raise NotAnExpression("a symbol with other than yes and no assumed of it")
            self.advance()
        self.take(")")
        return lambda values: values[name]


def _apply(function: Callable[..., Any], given: list[Expression]) -> Expression:
    return lambda values: function(*(part(values) for part in given))
