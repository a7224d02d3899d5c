"""The pickle machine: every opcode against Python's own, and streams that attack it."""

import collections
import contextlib
import pickle
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score.errors import LoadError, MalformedFile, TruncatedFile
from score.formats._pickle.read import no_storages, read_pickle
from score.formats._pickle.vm import _ACTIONS
from score.formats.base import GlobalName, OpaqueObject

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=5)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3).map(collections.OrderedDict)
        | st.sets(st.integers(), max_size=4)
        | st.frozensets(st.text(max_size=3), max_size=4)
    ),
    max_leaves=30,
)


def read(data: bytes) -> Any:
    return read_pickle(data, no_storages, name="test").value


@given(PLAIN, st.integers(0, 5))
def test_plain_values_read_as_python_reads_them(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(LoadError):
        read(data)


@settings(max_examples=300)
@given(PLAIN, st.integers(0, 5), st.data())
def test_a_damaged_pickle_is_read_or_refused(value: Any, protocol: int, data: st.DataObject) -> None:
    stream = bytearray(pickle.dumps([value, collections.OrderedDict(a=1)], protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LoadError):
        read(bytes(stream))


def test_python_2_strings() -> None:
    assert read(b"U\x03abc.") == "abc"
    assert read(b"S'abc'\n.") == "abc"
    assert read(b"U\x02\xc3\xa9.") == "é"
    assert read(b"T\x02\x00\x00\x00\xff\xfe.").raw == b"\xff\xfe"


class Plain:
    """Pickled by its dict."""

    def __init__(self) -> None:
        self.a = 1


class Slotted:
    """Pickled by its slots."""

    __slots__ = ("b",)

    def __init__(self) -> None:
        self.b = 2


class Dict(dict):
    """A dict of the project's own."""


class List(list):
    """A list of the project's own."""


class Reduced:
    """Pickled by __reduce__ with everything that it can give."""

    def __reduce__(self) -> Any:
        return Plain, (), {"state": 1}, iter([1, 2]), iter([("k", "v")])


class Keyword:
    """Pickled with keyword arguments for __new__."""

    def __new__(cls, *, x: int) -> "Keyword":
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"x": 3}


def _held(value: Any) -> dict[Any, Any]:
    return value.attributes() | value.mapping | dict(enumerate(value.items))


@pytest.mark.parametrize("protocol", range(6))
def test_unknown_classes_become_opaques(protocol: int) -> None:
    plain = read(pickle.dumps(Plain(), protocol))
    assert isinstance(plain, OpaqueObject)
    assert plain.path == f"{__name__}.Plain"
    assert plain.attributes() == {"a": 1}
    items: Any = List([1, 2])
    items.note = "x"
    assert read(pickle.dumps(items, protocol)).items == [1, 2]
    assert read(pickle.dumps(items, protocol)).attributes() == {"note": "x"}
    assert read(pickle.dumps(Dict(a=1), protocol)).mapping == {"a": 1}
    assert _held(read(pickle.dumps(Reduced(), protocol))) == {"state": 1, "k": "v", 0: 1, 1: 2}
    assert read(pickle.dumps(Plain, protocol)).path == f"{__name__}.Plain"
    if protocol >= 2:
        assert read(pickle.dumps(Slotted(), protocol)).attributes() == {"b": 2}
        assert isinstance(read(pickle.dumps(Keyword(x=3), protocol)), OpaqueObject)


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'touch /tmp/score-was-here'\ntR.",
        b"cbuiltins\neval\n(S'1+1'\ntR.",
        b"cbuiltins\ngetattr\n(cos\nS'system'\ntR.",
        b"ctorch\nload\n(S'/etc/passwd'\ntR.",
        b"(ios\nsystem\nS'id'\n.".replace(b"(i", b"(S'id'\ni").replace(b"S'id'\n.", b"."),
        b"(cos\nsystem\nS'id'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
        b"c__builtin__\nexec\n(S'x'\ntR.",
    ],
)
def test_calls_become_opaques_that_remember(stream: bytes) -> None:
    value = read(stream)
    assert isinstance(value, (OpaqueObject, GlobalName))


def test_an_allowed_function_can_not_be_altered_by_build() -> None:
    import torch

    stream = b"ctorch._utils\n_rebuild_tensor_v2\n}S'evil'\nI1\nsb."
    assert isinstance(read(stream), GlobalName)
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")


BOMBS: dict[str, bytes] = {
    "memo index": b"Nr\xff\xff\xff\x7f0}.",
    "long string": b"X\xff\xff\xff\x7fabc.",
    "long bytes": b"\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "long bytearray": b"\x96" + struct.pack("<Q", 1 << 60) + b".",
    "negative long": b"\x8b\xff\xff\xff\xff.",
    "frame": b"\x95" + struct.pack("<Q", 1 << 60),
    "no stop": b"]" * 1000,
    "marks": b"(" * 2_000_000 + b".",
    "lists": b"]" * 2_000_000 + b".",
    "memo missing": b"h\x05.",
    "stack empty": b"a.",
    "unhashable key": b"}]Ns.",
    "extension": b"\x82\x01.",
    "extension 4": b"\x84\x01\x00\x00\x00.",
    "unknown opcode": b"\xff.",
    "int of many digits": b"I" + b"9" * 10_000 + b"\n.",
    "set from a number": b"cbuiltins\nset\n(K\x05tR.",
    "bytearray of a size": b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR.",
    "buffers": b"\x97.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str) -> None:
    if name == "memo index":  # harmless here: the memo is a dict
        assert read(BOMBS[name]) == {}
        return
    with pytest.raises((MalformedFile, TruncatedFile)):
        read(BOMBS[name])


def test_billion_laughs_stay_small() -> None:
    # each list holds the one before it ten times: 10^30 leaves, if anyone counted
    stream = b"]q\x00"
    for level in range(30):
        stream += b"](" + bytes([0x68, level]) * 10 + b"eq" + bytes([level + 1])
    value = read(stream + b".")
    assert len(value) == 10


def test_every_opcode_of_pickle_is_known() -> None:
    import pickletools

    unknown = [op.name for op in pickletools.opcodes if op.code != "." and "unknown" in repr(_ACTIONS[ord(op.code)])]
    assert not unknown
    refused = [
        op.name
        for op in pickletools.opcodes
        if op.code != "." and _ACTIONS[ord(op.code)].__qualname__.startswith("_refuse")
    ]
    assert refused == ["NEXT_BUFFER", "EXT1", "EXT2", "EXT4"]


def test_text_that_json_refuses_is_escaped() -> None:
    lone = b"a\xed\xa0\x80"
    assert read(b"X\x04\x00\x00\x00" + lone + b".") == "a\\xed\\xa0\\x80"
    assert read(b"Va\\ud800\n.").encode()
