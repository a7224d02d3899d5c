"""The description of a model, for what it takes and gives."""

import pytest

from score.errors import RequestError, every_error
from score.inference.signature import parse
from score.server.openapi import description


@pytest.mark.parametrize(
    "spec",
    ["float32[N, 4]", "int64[N, ?]", "bool[N]", {"a": "float32[N, 2]", "b": "py_int"}, "uint8[N, 3, 8, 8]"],
    ids=str,
)
def test_every_kind_of_input_is_described(spec: str | dict[str, str]) -> None:
    signature = parse(spec, ["x"], "a test")
    found = description(signature, {"output": ("float32", [1, 2])})
    content = found["paths"]["/score"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "application/x-npy", "application/x-npz"}
    text = str(content["application/json"])
    assert all(name in text for name in ([*spec] if isinstance(spec, dict) else ["data", "inputs", "instances"]))


def test_every_status_of_a_refusal_is_there() -> None:
    found = description(parse("float32[N, 4]", ["x"], "a test"), {})
    answers = set(found["paths"]["/score"]["post"]["responses"])
    statuses = {str(kind.status) for kind in every_error() if issubclass(kind, RequestError)}
    assert statuses - answers <= {"404", "405", "408", "431", "499"}  # of no prediction, or of nobody who reads it
