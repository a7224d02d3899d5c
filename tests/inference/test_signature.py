"""What a model takes, and what becomes of a request that differs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from score.errors import InvalidSetting, NotNumeric, RequestError, WrongDtype, WrongInputs, WrongShape
from score.inference.signature import InputSpec, Signature, parse, validate

ONE = parse("float32[N, 3]", ["x"], "test")


def test_a_spec_is_read() -> None:
    spec = parse("float32[N, 3, ?, -1]", ["pixels"], "SCORE_INPUTS").inputs[0]
    assert spec == InputSpec("pixels", "float32", (None, 3, None, None))
    assert str(spec) == "float32[N, 3, ?, ?]"
    assert [spec.name for spec in parse({"ids": "int64[N, L]", "mask": "bool[N, L]"}, [], "").inputs] == ["ids", "mask"]
    assert parse("int64", ["x"], "").inputs[0].shape is None
    assert str(parse("float[N, 2]", ["x"], "").inputs[0]) == "float32[N, 2]"


@pytest.mark.parametrize("text", ["", "float33[N]", "float32[N", "float32(N)", "nn[1]", "load[1]"])
def test_a_spec_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting):
        parse(text, ["x"], "SCORE_INPUTS")


def test_integers_are_cast() -> None:
    tensor = validate(ONE, np.array([[1, 2, 3]]))["x"]
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == [[1, 2, 3]]


@given(
    st.sampled_from(["float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"]),
    hnp.arrays(st.sampled_from([np.int64, np.float64, np.uint64, np.bool_]), hnp.array_shapes(max_dims=3, max_side=3)),
)
def test_a_cast_keeps_the_values_or_is_refused(dtype: str, array: np.ndarray) -> None:
    signature = Signature((InputSpec("x", dtype),), "test")
    try:
        tensor = validate(signature, array)["x"]
    except RequestError as error:
        assert error.status == 400
        return
    assert str(tensor.dtype) == f"torch.{dtype}"
    if not tensor.dtype.is_floating_point and tensor.dtype != torch.bool:
        assert tensor.tolist() == array.tolist()
    elif array.dtype.kind == "f" and tensor.dtype != torch.bool:
        assert np.array_equal(np.isfinite(tensor.double().numpy()), np.isfinite(array))


@pytest.mark.parametrize(
    ("dtype", "value", "says"),
    [
        ("int64", 1.5, "fraction"),
        ("uint8", 256, "do not fit"),
        ("uint8", -1, "do not fit"),
        ("int64", 1e30, "does not fit"),
        ("int64", float("nan"), "fraction"),
        ("float16", 70_000.0, "too large"),
    ],
)
def test_what_a_dtype_cannot_hold_is_refused(dtype: str, value: float, says: str) -> None:
    with pytest.raises(WrongDtype, match=says):
        validate(Signature((InputSpec("x", dtype),), ""), np.array([value]))


@pytest.mark.parametrize("shape", [(3,), (1, 4), (1, 1, 3), ()])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongShape, match=r"expected float32\[N, 3\], received"):
        validate(ONE, np.zeros(shape))


def test_input_names_are_checked() -> None:
    with pytest.raises(WrongInputs, match="takes x; received y"):
        validate(ONE, {"y": np.zeros((1, 3))})
    with pytest.raises(NotNumeric):
        validate(ONE, np.array([["a", "b", "c"]]))
    optional = Signature((InputSpec("x", "float32"), InputSpec("mask", "bool", required=False)), "")
    assert list(validate(optional, {"x": np.zeros(1)})) == ["x"]


def test_python_scalars() -> None:
    signature = Signature((InputSpec("rate", "py_int"),), "")
    assert validate(signature, {"rate": np.asarray(16000)}) == {"rate": 16000}
    with pytest.raises(WrongShape):
        validate(signature, {"rate": np.array([1, 2])})
