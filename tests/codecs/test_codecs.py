"""The binary body formats, and the choice between formats."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from score.codecs import npy, npz, oip_v2
from score.codecs.base import JSON_TYPES, Body, Decoded
from score.codecs.registry import choose, codecs, for_answer
from score.errors import InvalidArray, InvalidTensor, NotAcceptable, NotNumeric, RequestError, UnknownOutput

NUMBERS = hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="<") | hnp.unsigned_integer_dtypes(endianness="<")
DTYPES = NUMBERS | hnp.floating_dtypes(endianness="<", sizes=(16, 32, 64))
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)))
TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@given(ARRAYS)
def test_npy_round_trip(array: np.ndarray) -> None:
    body = Body(saved(array), "application/x-npy")
    assert choose(body) is npy
    decoded = npy.decode(body)
    np.testing.assert_array_equal(decoded.arrays, array)
    answer = npy.encode(array, decoded)
    assert answer.content_type == "application/x-npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.body)), array)


@given(st.dictionaries(st.text("abc_", min_size=1, max_size=4), ARRAYS, min_size=1, max_size=3), st.booleans())
def test_npz_round_trip(arrays: dict[str, np.ndarray], compressed: bool) -> None:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    body = Body(file.getvalue())
    assert choose(body) is npz
    decoded = npz.decode(body)
    assert isinstance(decoded.arrays, dict)
    assert decoded.arrays.keys() == arrays.keys()
    with np.load(io.BytesIO(npz.encode(arrays, decoded).body)) as answer:
        for name, array in arrays.items():
            np.testing.assert_array_equal(decoded.arrays[name], array)
            np.testing.assert_array_equal(answer[name], array)


def test_several_outputs_come_back_from_npy_as_npz() -> None:
    answer = npy.encode({"a": np.ones(2), "b": np.zeros(3)}, Decoded(np.ones(1), "npy"))
    assert answer.content_type == "application/x-npz"
    assert set(np.load(io.BytesIO(answer.body))) == {"a", "b"}


@given(st.binary(max_size=300).map(lambda tail: b"\x93NUMPY" + tail) | st.binary(max_size=300))
def test_any_bytes_are_an_array_or_refused(data: bytes) -> None:
    for codec in (npy, npz):
        try:
            codec.decode(Body(data))
        except RequestError as error:
            assert error.status == 400


@given(ARRAYS, st.data())
def test_a_damaged_array_is_read_or_refused(array: np.ndarray, data: st.DataObject) -> None:
    whole = bytearray(saved(array))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            npy.decode(Body(damaged))
        except RequestError as error:
            assert error.status == 400


def test_arrays_of_objects_and_text_are_refused() -> None:
    for array in (np.array([{"a": 1}], dtype=object), np.array(["a"])):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        with pytest.raises(NotNumeric):
            npy.decode(Body(file.getvalue()))


def test_a_header_that_promises_more_than_follows_is_refused() -> None:
    head = saved(np.zeros((1, 4), np.float32)).replace(b"(1, 4)", b"(9, 4)")
    with pytest.raises(InvalidArray, match="144 bytes, and 16 follow"):
        npy.decode(Body(head))


def test_a_zip_bomb_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(50_000_000))
    with pytest.raises(InvalidArray, match="expands"):
        npz.decode(Body(file.getvalue()))


def asked(arrays: dict[str, np.ndarray], binary: bool, wanted: dict[str, bool] | None = None) -> Body:
    """A request as the real Triton client writes it."""
    inputs = []
    for name, array in arrays.items():
        item = triton.InferInput(name, list(array.shape), TYPES[array.dtype.name])
        item.set_data_from_numpy(array, binary_data=binary)
        inputs.append(item)
    outputs = None
    if wanted is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name, binary in wanted.items()]
    data, length = triton.InferenceServerClient.generate_request_body(inputs, outputs=outputs, request_id="r7")
    return Body(data, "application/octet-stream" if length else "application/json", length)


def answered(outputs: Any, decoded: Decoded) -> triton.InferResult:
    """The answer as the real Triton client reads it."""
    answer = oip_v2.encode(outputs, decoded)
    length = answer.headers.get(oip_v2.LENGTH_HEADER)
    return triton.InferenceServerClient.parse_response_body(answer.body, header_length=length and int(length))


# The client has no JSON form for half-precision numbers.
@given(ARRAYS, ARRAYS.filter(lambda array: array.dtype != np.float16))
def test_v2_round_trip_with_the_triton_client(one: np.ndarray, other: np.ndarray) -> None:
    for binary, arrays in ((True, {"a": one, "b": other}), (False, {"b": other})):
        if not binary and other.dtype.kind == "f" and not np.isfinite(other).all():
            continue  # JSON has no such numbers
        body = asked(arrays, binary, dict.fromkeys(arrays, binary))
        assert choose(body) is oip_v2
        decoded = oip_v2.decode(body)
        assert isinstance(decoded.arrays, dict)
        result = answered(decoded.arrays, decoded)
        assert result.get_response()["id"] == "r7"
        for name, array in arrays.items():
            assert decoded.arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(decoded.arrays[name], array)
            np.testing.assert_array_equal(result.as_numpy(name), array)


def test_v2_gives_the_outputs_that_are_asked_for() -> None:
    outputs = {"a": np.ones((1, 2), np.float32), "b": np.zeros((1, 3), np.int64)}
    decoded = oip_v2.decode(asked({"x": np.ones((1, 1), np.float32)}, True, {"b": False}))
    result = answered(outputs, decoded)
    assert result.as_numpy("a") is None
    np.testing.assert_array_equal(result.as_numpy("b"), outputs["b"])
    with pytest.raises(UnknownOutput, match="gives a, b; asked for was c"):
        oip_v2.encode(outputs, oip_v2.decode(asked({"x": np.ones((1, 1), np.float32)}, True, {"c": False})))


def test_v2_bf16_is_the_upper_half_of_a_float() -> None:
    values = np.array([1.5, -2.0], np.float32)
    tail = (values.view("<u4") >> 16).astype("<u2").tobytes()
    item = {"name": "x", "shape": [2], "datatype": "BF16", "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [item]}).encode()
    np.testing.assert_array_equal(oip_v2.decode(Body(head + tail, "", len(head))).arrays["x"], values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": [3]}, "has 3 values, the data 2"),
        ({"shape": [-1]}, "not a list of sizes"),
        ({"datatype": "INT8", "data": [1, 300]}, "not all INT8"),
        ({"datatype": "BF16"}, "binary data only"),
        ({"parameters": {"binary_data_size": 8}}, "binary_data_size is 8, and 0 are left"),
    ],
)
def test_v2_says_what_contradicts_itself(change: dict[str, Any], says: str) -> None:
    item = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2], **change}
    with pytest.raises(InvalidTensor, match=says):
        oip_v2.decode(Body(json.dumps({"inputs": [item]}).encode()))


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size", "outputs"]), inner
    ),
    max_leaves=12,
), st.binary(max_size=20))  # fmt: skip
def test_v2_reads_or_refuses_anything(item: Any, tail: bytes) -> None:
    head = json.dumps({"inputs": [item], "outputs": item}).encode()
    try:
        oip_v2.decode(Body(head + tail, "", len(head)))
    except RequestError as error:
        assert error.status == 400


def test_the_answer_mirrors_the_request_unless_accept_asks_otherwise() -> None:
    named = codecs()
    assert for_answer(npy, None) is npy
    assert for_answer(npy, "*/*") is npy
    assert for_answer(npy, "application/json") is named["json"]
    assert for_answer(named["json"], "application/x-npy") is npy
    assert for_answer(named["json"], "application/json, application/x-npy") is named["json"]
    assert for_answer(named["json"], "application/json;q=0.5, application/x-npy") is npy
    assert for_answer(named["json"], "text/html, */*;q=0.1") is named["json"]
    with pytest.raises(NotAcceptable, match=r"accepts image/png; answers can be application/json"):
        for_answer(npy, "image/png")


def test_codecs_need_no_extra() -> None:
    """What only an extra brings is imported where it is used: most images have none of it."""
    extras = ("pandas", "pyarrow", "PIL", "torch", "transformers", "onnxruntime")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r})); "
        "from score.codecs.registry import codecs; print(*sorted(codecs()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    every = "audio csv image items json json-lines multipart npy npz oip-v2 openai-embeddings"
    assert done.stdout.split() == every.split(), done.stderr


_BODIES = (
    '{"data": [[1, 2]]}',
    '{"inputs": [[1.5]], "parameters": {"top_k": 1}}',
    '{"inputs": ["a text"]}',
    '{"inputs": "a text"}',
    '{"": ""}',
    '{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}',
    '{"dataframe_split": {"columns": ["a"], "data": [[1]]}}',
    "{}",
    '{"inputs"',
    ' {"data": [[1]]}',
    "[1, 2]",
    '"text"',
    "RIFF0000WAVE{",
    "\x93NUMPY\x01\x00",
)


@pytest.mark.parametrize("body", _BODIES)
@pytest.mark.parametrize("kind", [*JSON_TYPES, "text/csv", "application/x-npy", "image/png", "application/x-ndjson"])
@pytest.mark.parametrize("json_length", [None, 2])
def test_a_body_is_given_to_whom_all_would_have_given_it(body: str, kind: str, json_length: int | None) -> None:
    """Only some are asked where a body's beginning tells: none of the others would have taken it."""

    def asked(way: Callable[[Body], Any]) -> Any:
        try:
            return way(Body(body.encode("latin-1"), kind, json_length)).NAME
        except RequestError as error:
            return error.code

    def all_asked(body: Body) -> Any:
        return next(codec for codec in codecs().values() if codec.accepts(body))

    assert asked(choose) == asked(all_asked)
