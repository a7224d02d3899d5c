"""Tables and lines: what MLflow's and SageMaker's clients send."""

from typing import Any

import numpy as np
import pytest

from score.codecs import registry
from score.codecs.base import Body, Decoded
from score.errors import InvalidJson, InvalidTable, NotAcceptable, NotNumeric, UnknownBody, WrongInputs

LINES = "application/jsonlines"


def decoded(data: bytes, kind: str, header: bool | None = None) -> Decoded:
    body = Body(data, kind, header=header)
    return registry.choose(body).decode(body)


@pytest.mark.parametrize(
    ("data", "columns", "rows"),
    [
        (b"1,2\n3,4.5\n", (), [[1, 2], [3, 4.5]]),
        (b"a,b\r\n1,2\r\n", ("a", "b"), [[1, 2]]),
        (b'\xef\xbb\xbf"a, b",c\n-1e3,nan\n', ("a, b", "c"), [[-1000, np.nan]]),
        (b"9007199254740993\n", (), [[9007199254740993]]),
        (b"\n1,2\n\n", (), [[1, 2]]),
    ],
)
def test_a_table_of_numbers(data: bytes, columns: tuple[str, ...], rows: list[list[float]]) -> None:
    found = decoded(data, "text/csv")
    assert found.columns == columns
    np.testing.assert_array_equal(found.arrays, np.asarray(rows))


@pytest.mark.parametrize(
    ("data", "header", "items"),
    [
        (b'text\nhello\n"it\'s, fine"\n', None, ("hello", "it's, fine")),
        (b"hello\nworld\n", False, ("hello", "world")),
        (b"question,context\nwho?,me\n", None, ({"question": "who?", "context": "me"},)),
    ],
)
def test_a_table_of_texts(data: bytes, header: bool | None, items: tuple[Any, ...]) -> None:
    found = decoded(data, "text/csv", header).items
    assert found is not None
    assert (found.values, found.single) == (items, False)


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"1,2\n3\n", InvalidTable, "row 2 has 1 values"),
        (b"a,b\n", InvalidTable, "no row below"),
        (b"a,a\n1,2\n", InvalidTable, "same name"),
        (b"1,2\n3,x\n", NotNumeric, "row 2 has 'x'"),
        (b"a\n1_0\n", InvalidTable, "whether"),
        (b"hello\nworld\n", InvalidTable, "whether the first row"),
        (b"\xff\n", InvalidTable, "can't be read"),
        (b"\n\n", InvalidTable, "no rows"),
        (b"0,1,2\n4,5,6\n", InvalidTable, "counts from 0"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(data: bytes, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        decoded(data, "text/csv")


def test_a_header_of_numbers_is_one_where_the_type_says_so() -> None:
    found = decoded(b"1,2\n3,4\n", "text/csv", header=True)
    assert found.columns == ("1", "2")
    assert found.arrays.tolist() == [[3, 4]]  # type: ignore[union-attr]


def test_answers_as_tables() -> None:
    codec = registry.codecs()["csv"]
    nothing = Decoded(np.empty(0), "csv")
    assert codec.encode(np.array([[1.5, 2.0], [3.0, 4.0]]), nothing).body == b"1.5,2.0\n3.0,4.0\n"
    both = {"a": np.array([1, 2]), "b": np.array([[1, 2], [3, 4]])}
    assert codec.encode(both, nothing).body == b"a,b_0,b_1\n1,1,2\n2,3,4\n"
    with pytest.raises(NotAcceptable, match="no table"):
        codec.encode(np.zeros((2, 2, 2)), nothing)


@pytest.mark.parametrize(
    ("data", "arrays"),
    [
        (b"[1, 2]\n[3, 4]\n", [[1, 2], [3, 4]]),
        (b'{"inputs": [1, 2]}\r\n\r\n{"data": [3, 4]}', [[1, 2], [3, 4]]),
        (b'{"features": [0.5]}\n', [[0.5]]),
    ],
)
def test_a_line_a_row(data: bytes, arrays: Any) -> None:
    assert decoded(data, LINES).arrays.tolist() == arrays  # type: ignore[union-attr]


def test_a_line_by_names_and_a_line_a_text() -> None:
    named = decoded(b'{"x": [1], "y": [2]}\n{"x": [3], "y": [4]}\n', LINES).arrays
    assert {name: value.tolist() for name, value in named.items()} == {"x": [[1], [3]], "y": [[2], [4]]}  # type: ignore[union-attr]
    items = decoded(b'"a"\n{"text": "b"}\n', "application/x-ndjson").items
    assert items is not None
    assert items.values == ("a", "b")


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"[1]\n[2\n", InvalidJson, "line 2"),
        (b"[1]\n{}\n", UnknownBody, "some are not"),
        (b'{"x": 1}\n{"z": 1}\n', WrongInputs, "line 2 has z"),
        (b"[true, 2]\n", NotNumeric, "booleans"),
        (b"\n", UnknownBody, "0 lines"),
    ],
)
def test_what_is_wrong_with_lines_is_said(data: bytes, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        decoded(data, LINES)


def test_answers_as_lines() -> None:
    codec: Any = registry.codecs()["json-lines"]
    nothing = Decoded(np.empty(0), "json-lines")
    assert codec.encode(np.array([[1.5, np.nan], [3.0, 4.0]]), nothing).body == b"[1.5,null]\n[3.0,4.0]\n"
    assert (
        codec.encode({"a": np.array([1, 2]), "b": np.array([3, 4])}, nothing).body == b'{"a":1,"b":3}\n{"a":2,"b":4}\n'
    )
    assert codec.encode_answer([{"label": "x"}, {"label": "y"}], nothing).body == b'{"label":"x"}\n{"label":"y"}\n'
