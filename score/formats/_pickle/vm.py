"""A pickle machine that runs nothing by itself.

It knows all opcodes of protocols 0 to 5 and leaves every decision to a policy: what a global name stands for, what a
call gives, what BUILD does. `score.formats._pickle.inert` is the policy for everything that is only read.

By hand, since Python's own unpicklers import what a file names before anybody is asked, torch's `weights_only` knows
torch's classes alone and stops at the first other one, and neither gives a tensor without bringing in its bytes.

Specification: the comments of CPython's `Lib/pickletools.py`.
"""

import codecs
import struct
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from score.errors import MalformedFile, ScoreError, TruncatedFile, VersionTooOld

# A vocabulary of a million words takes four million opcodes; more than these is an attack, or no checkpoint.
MAX_OPCODES = 6_000_000
MAX_STACK = 1_000_000
LARGE = 4096  # bytes that are left where they are
MAX_KEY_DEPTH, MAX_KEY_LENGTH = 4, 64  # of tuples that are keys


class Policy(Protocol):
    """What the machine asks for at each opcode that could have an effect."""

    def find(self, module: str, name: str) -> Any: ...
    def call(self, function: Any, args: tuple[Any, ...]) -> Any: ...
    def new(self, cls: Any, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> Any: ...
    def build(self, target: Any, state: Any) -> None: ...
    def extend(self, target: Any, items: list[Any]) -> None: ...
    def update(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None: ...


class Python2Bytes(str):
    """A Python 2 string: text where it reads as such; `raw` is what the file holds."""

    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> "Python2Bytes":
        try:
            text = cls(raw.decode("utf-8"))
        except UnicodeDecodeError:
            text = cls(raw.decode("latin-1"))
        text.raw = raw
        return text


class Unpickler:
    """Reads one pickle from `data[position:]`; afterwards `position` is where it ended.

    `data` is anything that slices to bytes (bytes, or a memory map). Raises `MalformedFile` or `TruncatedFile`.
    """

    def __init__(
        self, data: Any, policy: Policy, persistent: Callable[[Any], Any], *, position: int = 0, name: str = "pickle"
    ) -> None:
        self.data, self.policy, self.persistent, self.position, self.name = data, policy, persistent, position, name
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        data, actions, end = self.data, _ACTIONS, len(self.data)
        try:
            for _ in range(MAX_OPCODES):
                if self.position >= end:
                    raise TruncatedFile(f"{self.name}: the pickle ends without its STOP at byte {end:,}")
                opcode = data[self.position]
                self.position += 1
                if opcode == 0x2E:  # STOP
                    return self.stack.pop()
                actions[opcode](self)
                if len(self.stack) > MAX_STACK or len(self.marks) > MAX_STACK:
                    raise MalformedFile(f"{self.name}: the pickle piles up more than {MAX_STACK:,} objects")
        except ScoreError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, struct.error, OverflowError, MemoryError) as error:
            raise MalformedFile(
                f"{self.name}: not a valid pickle at byte {self.position:,} ({type(error).__name__}: {error})"
            ) from None
        raise MalformedFile(f"{self.name}: the pickle has more than {MAX_OPCODES:,} instructions")

    def take(self, count: int) -> bytes:
        start = self.position
        if count < 0 or start + count > len(self.data):
            raise TruncatedFile(f"{self.name}: the pickle wants {count:,} bytes at byte {start:,} and ends before")
        self.position = start + count
        return bytes(self.data[start : start + count])

    def block(self, count: int) -> Any:
        """The next bytes: a view of them where they are many, so that what is mapped stays so."""
        start = self.position
        if count < LARGE:
            return self.take(count)
        if start + count > len(self.data):
            raise TruncatedFile(f"{self.name}: the pickle wants {count:,} bytes at byte {start:,} and ends before")
        self.position = start + count
        return memoryview(self.data)[start : start + count]

    def number(self, form: str, size: int) -> Any:
        return struct.unpack(form, self.take(size))[0]

    def line(self) -> bytes:
        """Up to the next line's end, which is not far: lines hold names and numbers."""
        start, stop = self.position, self.position
        while stop < len(self.data):
            found = bytes(self.data[stop : stop + 4096]).find(b"\n")
            if found >= 0:
                self.position = stop + found + 1
                return bytes(self.data[start : stop + found])
            stop += 4096
        raise TruncatedFile(f"{self.name}: the pickle ends in the middle of a line")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)


# The few opcodes that make up most of any pickle are spelt out; all others go through `take` and `number`.


def _byte(m: Unpickler) -> int:
    at = m.position
    m.position = at + 1
    return int(m.data[at])


def _word(m: Unpickler) -> int:
    at = m.position
    m.position = at + 4
    raw = m.data[at : at + 4]
    if len(raw) < 4:
        raise TruncatedFile(f"{m.name}: the pickle ends in the middle of a number")
    return int.from_bytes(raw, "little")


def _put_byte(m: Unpickler) -> None:
    m.memo[_byte(m)] = m.stack[-1]


def _put_word(m: Unpickler) -> None:
    m.memo[_word(m)] = m.stack[-1]


def _get_byte(m: Unpickler) -> None:
    m.stack.append(m.memo[_byte(m)])


def _get_word(m: Unpickler) -> None:
    m.stack.append(m.memo[_word(m)])


def _text(m: Unpickler) -> None:
    m.stack.append(_unicode(m.take(_word(m))))


def _small(m: Unpickler) -> None:
    m.stack.append(_byte(m))


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("an odd number of items for a dict")
    keys = items[::2]
    for key in keys:
        if type(key) is not str:
            hashable(key)
    return zip(keys, items[1::2], strict=True)


def hashable(key: Any, depth: int = MAX_KEY_DEPTH) -> Any:
    """A key, if Python can hash it in no time: a tuple's hash is that of all in it, each time that it is met."""
    if isinstance(key, (tuple, frozenset)):
        if depth == 0 or len(key) > MAX_KEY_LENGTH:
            raise ValueError("a key of a dict or set that is nested deep, or long")
        for part in key:
            hashable(part, depth - 1)
    return key


def _mark(m: Unpickler) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _pop(m: Unpickler) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _proto(m: Unpickler) -> None:
    version = m.number("<B", 1)
    if version > 5:
        raise VersionTooOld(f"{m.name}: pickle protocol {version} is unknown to this Python; the newest here is 5")


def _int(m: Unpickler) -> None:
    text = m.line()
    m.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))


def _string(m: Unpickler) -> None:
    text = m.line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise ValueError("a string without its quotes")
    raw: bytes = codecs.escape_decode(text[1:-1])[0]  # type: ignore[attr-defined]
    m.push(Python2Bytes.of(raw))


def _put(m: Unpickler, index: int) -> None:
    m.memo[index] = m.stack[-1]


def _find(m: Unpickler, module: Any, name: Any) -> Any:
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a global name that is not text")
    return m.policy.find(str(module), str(name))


def _global(m: Unpickler) -> None:
    module, name = m.line().decode(), m.line().decode()
    m.push(_find(m, module, name))


def _stack_global(m: Unpickler) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.push(_find(m, module, name))


def _reduce(m: Unpickler) -> None:
    args, function = m.stack.pop(), m.stack.pop()
    if not isinstance(args, tuple) and (member := getattr(m.policy, "member", None)) is not None:
        m.push(member(function, args))  # TorchScript's own way to name a member of an Enum
        return
    m.push(m.policy.call(function, _tuple(args)))


def _newobj(m: Unpickler) -> None:
    args, cls = m.stack.pop(), m.stack.pop()
    m.push(m.policy.new(cls, _tuple(args), {}))


def _newobj_ex(m: Unpickler) -> None:
    kwargs, args, cls = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.push(m.policy.new(cls, _tuple(args), dict(kwargs)))


def _tuple(args: Any) -> tuple[Any, ...]:
    if not isinstance(args, tuple):
        raise TypeError("call arguments that are not a tuple")
    return args


def _inst(m: Unpickler) -> None:
    module, name = m.line().decode(), m.line().decode()
    m.push(m.policy.call(_find(m, module, name), tuple(m.since_mark())))


def _obj(m: Unpickler) -> None:
    cls, *args = m.since_mark()
    m.push(m.policy.call(cls, tuple(args)))


def _build(m: Unpickler) -> None:
    state = m.stack.pop()
    m.policy.build(m.stack[-1], state)
    if (follows := getattr(m.policy, "follows", None)) is not None:  # joblib puts an array's bytes behind its object
        m.stack[-1] = follows(m.stack[-1], m.block)


def _append(m: Unpickler) -> None:
    item = m.stack.pop()
    m.policy.extend(m.stack[-1], [item])


def _appends(m: Unpickler) -> None:
    items = m.since_mark()
    if isinstance(m.stack[-1], set):
        for item in items:
            hashable(item)
    m.policy.extend(m.stack[-1], items)


def _setitem(m: Unpickler) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.policy.update(m.stack[-1], [(hashable(key), value)])


def _setitems(m: Unpickler) -> None:
    items = m.since_mark()
    m.policy.update(m.stack[-1], _pairs(items))


def _tuple_of(m: Unpickler, count: int) -> None:
    if len(m.stack) < count:
        raise IndexError("too few objects for a tuple")
    m.stack[-count:] = [tuple(m.stack[-count:])]


def _long(m: Unpickler, size: int) -> None:
    m.push(int.from_bytes(m.take(size), "little", signed=True))


def _refuse(what: str) -> Callable[[Unpickler], None]:
    def action(m: Unpickler) -> None:
        raise MalformedFile(f"{m.name}: the pickle {what}, which no checkpoint does")

    return action


def _nothing(m: Unpickler) -> None:
    """PROTO's sister opcodes that only steer the reading of a stream."""


def _unicode(raw: bytes) -> str:
    """Text that is not valid (lone surrogates, which JSON and terminals refuse) is shown escaped."""
    return raw.decode("utf-8", "backslashreplace")


_TABLE: dict[bytes, Callable[[Unpickler], None]] = {
    b"(": _mark,
    b"0": _pop,
    b"1": lambda m: (m.since_mark(), None)[1],
    b"2": lambda m: m.push(m.stack[-1]),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.number(">d", 8)),
    b"I": _int,
    b"J": lambda m: m.push(m.number("<i", 4)),
    b"K": _small,
    b"M": lambda m: m.push(m.number("<H", 2)),
    b"L": lambda m: m.push(int(m.line().rstrip(b"L"))),
    b"\x8a": lambda m: _long(m, m.number("<B", 1)),
    b"\x8b": lambda m: _long(m, m.number("<i", 4)),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"P": lambda m: m.push(m.persistent(m.line().decode())),
    b"Q": lambda m: m.push(m.persistent(m.stack.pop())),
    b"R": _reduce,
    b"S": _string,
    b"T": lambda m: m.push(Python2Bytes.of(m.take(m.number("<i", 4)))),
    b"U": lambda m: m.push(Python2Bytes.of(m.take(m.number("<B", 1)))),
    b"V": lambda m: m.push(_unicode(m.line().decode("raw-unicode-escape").encode("utf-8", "surrogatepass"))),
    b"X": _text,
    b"\x8c": lambda m: m.push(_unicode(m.take(m.number("<B", 1)))),
    b"\x8d": lambda m: m.push(_unicode(m.take(m.number("<Q", 8)))),
    b"B": lambda m: m.push(m.block(m.number("<I", 4))),
    b"C": lambda m: m.push(m.take(m.number("<B", 1))),
    b"\x8e": lambda m: m.push(m.block(m.number("<Q", 8))),
    b"\x96": lambda m: m.push(m.block(m.number("<Q", 8))),
    b"a": _append,
    b"e": _appends,
    b"b": _build,
    b"c": _global,
    b"\x93": _stack_global,
    b"d": lambda m: m.push(dict(_pairs(m.since_mark()))),
    b"}": lambda m: m.push({}),
    b"l": lambda m: m.push(m.since_mark()),
    b"]": lambda m: m.push([]),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: _tuple_of(m, 1),
    b"\x86": lambda m: _tuple_of(m, 2),
    b"\x87": lambda m: _tuple_of(m, 3),
    b"\x8f": lambda m: m.push(set()),
    b"\x90": _appends,
    b"\x91": lambda m: m.push(frozenset(map(hashable, m.since_mark()))),
    b"g": lambda m: m.push(m.memo[int(m.line())]),
    b"h": _get_byte,
    b"j": _get_word,
    b"p": lambda m: _put(m, int(m.line())),
    b"q": _put_byte,
    b"r": _put_word,
    b"\x94": lambda m: _put(m, len(m.memo)),
    b"i": _inst,
    b"o": _obj,
    b"s": _setitem,
    b"u": _setitems,
    b"\x80": _proto,
    b"\x81": _newobj,
    b"\x92": _newobj_ex,
    b"\x95": lambda m: (m.take(8), None)[1],
    b"\x98": _nothing,
    b"\x82": _refuse("uses the extension registry"),
    b"\x83": _refuse("uses the extension registry"),
    b"\x84": _refuse("uses the extension registry"),
    b"\x97": _refuse("refers to buffers outside of it"),
}
_ACTIONS = [_TABLE.get(bytes([code]), _refuse(f"has an unknown instruction 0x{code:02x}")) for code in range(256)]
