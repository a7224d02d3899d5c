"""The JSON decoder: whatever is sent, it gives arrays or says what is wrong."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from score.codecs import _simdjson, json_dialects
from score.codecs.base import Body, Decoded
from score.codecs.json_dialects import accepts, encode
from score.errors import NotNumeric, RaggedRows, RequestError, UnknownBody, WrongInputs

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def decode(body: bytes) -> Decoded:
    return json_dialects.decode(Body(body))


DIALECTS = st.sampled_from(["data", "inputs", "instances", "input_data", "dataframe_split"])
FLOATS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=4), elements=st.floats(-1e6, 1e6, width=32))


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    try:
        decode(body)
    except RequestError as error:
        assert error.status == 400
        assert error.message


@given(DIALECTS, JSON)
def test_any_json_is_decoded_or_refused(dialect: str, value: Any) -> None:
    try:
        decoded = decode(json.dumps({dialect: value}).encode())
    except RequestError as error:
        assert error.status == 400
    else:
        arrays = decoded.arrays.values() if isinstance(decoded.arrays, dict) else [decoded.arrays]
        assert all(array.dtype.kind in "biufU" for array in arrays)


@given(DIALECTS, st.lists(st.integers(0, 2**64 - 1) | st.integers(2**63 - 2, 2**63 + 2), min_size=1, max_size=5))
@example("data", [0, 2**63 + 1])  # numpy would round it
@example("inputs", [2**64 - 1, 1])
def test_integers_survive_to_the_last_bit(dialect: str, values: list[int]) -> None:
    rows = [values, values[::-1]]
    decoded = decode(orjson.dumps({dialect: {"data": rows} if dialect == "dataframe_split" else rows}))
    assert decoded.arrays.tolist() == rows
    assert decoded.arrays.dtype.kind in "iu"


@given(DIALECTS, FLOATS)
def test_arrays_survive_the_way_in(dialect: str, array: np.ndarray) -> None:
    value = {"data": array.tolist()} if dialect == "dataframe_split" else array.tolist()
    decoded = decode(orjson.dumps({dialect: value}))
    assert decoded.dialect == dialect
    np.testing.assert_array_equal(decoded.arrays, array)


@given(FLOATS)
def test_arrays_survive_the_way_out(array: np.ndarray) -> None:
    body = encode(array, Decoded(array, "data")).body
    np.testing.assert_array_equal(np.array(json.loads(body)["predictions"], np.float32), array)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_side=3)))
def test_every_answer_is_valid_json(array: np.ndarray) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in an answer")

    json.loads(encode({"scores": array}, Decoded(array, "inputs")).body, parse_constant=refuse)


def test_named_inputs_and_records() -> None:
    columns = decode(b'{"inputs": {"a": [1, 2], "b": [[1.5], [2.5]]}}').arrays
    records = decode(b'{"instances": [{"a": 1, "b": [1.5]}, {"a": 2, "b": [2.5]}]}').arrays
    assert isinstance(columns, dict)
    assert isinstance(records, dict)
    for name in ("a", "b"):
        np.testing.assert_array_equal(columns[name], records[name])


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (b'{"data": [[1, 2], [3]]}', RaggedRows, r"data\[1\] has 1 values, data\[0\] has 2"),
        (b'{"data": [[[1], [2]], [[1], [2, 3]]]}', RaggedRows, r"data\[1\]\[1\] has 2"),
        (b'{"data": [1, [2]]}', RaggedRows, r"data\[0\] is a number, its neighbour a list"),
        (b'{"data": [[1, null]]}', NotNumeric, r"data\[0\]\[1\] is null"),
        (b'{"data": ["a", 1]}', NotNumeric, r"data\[0\] is a string"),
        (b'{"data": [["a"]]}', NotNumeric, r"data\[0\]\[0\] is a string"),
        (b'{"inputs": {"x": [true, "1"]}}', NotNumeric, r"x\[1\] is a string"),
        (b'{"instances": [{"a": 1}, {"b": 1}]}', WrongInputs, r"instances\[1\] has b"),
        (b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', RaggedRows, "2 values for 1 columns"),
        (b'"data"', UnknownBody, "a JSON string"),
        (b"{}", UnknownBody, "no keys"),
    ],
)
def test_what_is_wrong_is_said_by_place(body: bytes, error: type[RequestError], says: str) -> None:
    with pytest.raises(error, match=says):
        decode(body)


def test_json_is_told_by_its_content() -> None:
    assert accepts(Body(b'  {"data": []}', "image/png"))
    assert accepts(Body(b"nonsense", "application/x-www-form-urlencoded"))
    assert not accepts(Body(b"\x89PNG", "image/png"))


NESTED = st.recursive(
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=30,
)


@given(DIALECTS, NESTED | FLOATS.map(np.ndarray.tolist), st.sampled_from(["", "[", "data"]))
def test_the_quick_way_says_what_the_ordinary_way_says(dialect: str, value: Any, extra: str) -> None:
    document = {dialect: value, **({extra: 1} if extra else {})}
    text = json.dumps(document).encode() + b" " * _simdjson.SMALLEST
    quick = _simdjson.read(text, json_dialects.WRAPPED)
    if quick is None:
        return
    assert quick[0] == dialect
    ordinary = json_dialects.array(json.loads(text)[dialect], dialect)
    np.testing.assert_array_equal(quick[1], ordinary)
    assert quick[1].dtype == ordinary.dtype == np.float64


def test_the_quick_way_is_taken_for_what_it_is_made_for() -> None:
    array = np.random.default_rng(0).random((2, 3, 100))
    text = orjson.dumps({"data": array.tolist()})
    quick = _simdjson.read(text, json_dialects.WRAPPED)
    assert quick is not None
    np.testing.assert_array_equal(quick[1], array)


@pytest.mark.parametrize("body", [b'{"data": [[0.5, true]]}', b'{"inputs": {"x": [1, false]}}'])
def test_a_boolean_is_no_number(body: bytes) -> None:
    with pytest.raises(NotNumeric, match="booleans"):
        decode(body)
    assert decode(b'{"data": [true, false]}').arrays.dtype == bool


def test_two_dialects_at_once_are_refused() -> None:
    with pytest.raises(UnknownBody, match="'data' and 'inputs'"):
        decode(b'{"data": [[1]], "inputs": [[1]]}')
