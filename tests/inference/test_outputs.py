"""What a model returns keeps its names, its text and its meaning."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
import torch

from score.codecs import json_dialects, oip_v2
from score.codecs.base import Body, Decoded
from score.errors import ModelRejected, TopKUnavailable, UnknownParameter
from score.inference.outputs import arrays
from score.inference.preprocess.task import Task


class Pair(NamedTuple):
    mean: torch.Tensor
    spread: torch.Tensor


@dataclass
class Answer:
    text: str
    scores: list[float]
    boxes: torch.Tensor
    nothing: None = None


SHAPES: dict[str, tuple[Any, Any]] = {
    "a tuple": ((torch.ones(2), torch.zeros(2)), {"output_0": [1, 1], "output_1": [0, 0]}),
    "a tuple of one": ((torch.ones(2),), [1, 1]),
    "a named tuple": (Pair(torch.ones(1), torch.zeros(1)), {"mean": [1], "spread": [0]}),
    "a dataclass": (
        Answer("cat", [0.5, 0.25], torch.ones(1, 4)),
        {"text": "cat", "scores": [0.5, 0.25], "boxes": [[1, 1, 1, 1]]},
    ),
    "dicts in dicts": ({"a": {"b": torch.ones(1), "c": 3}, "d": [1.5, 2]}, {"a.b": [1], "a.c": 3, "d": [1.5, 2]}),
    "a string": ("cat", "cat"),
    "strings": (["cat", "dog"], ["cat", "dog"]),
    "a number": (0.5, 0.5),
    "numbers": ([1, 2], [1, 2]),
    "numpy": ({"x": np.float32(0.5), "y": np.arange(2)}, {"x": 0.5, "y": [0, 1]}),
    "a list of dicts": (
        [{"boxes": torch.ones(1, 4), "label": "cat"}, {"boxes": torch.ones(0, 4), "label": "dog"}],
        [{"boxes": [[1, 1, 1, 1]], "label": "cat"}, {"boxes": [], "label": "dog"}],
    ),
    "a list of one dict": ([{"x": torch.ones(2)}], [{"x": [1, 1]}]),
    "a list of dataclasses": (
        [Answer("cat", [0.5], torch.ones(1))],
        [{"text": "cat", "scores": [0.5], "boxes": [1]}],
    ),
    "a list of lists": ([[torch.ones(1)], [torch.zeros(1)]], {"output_0_0": [1], "output_1_0": [0]}),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_each_kind_of_output_has_its_json(kind: str) -> None:
    value, wanted = SHAPES[kind]
    document = orjson.loads(json_dialects.encode(arrays(value), Decoded(np.zeros(1), "data")).body)
    assert document == {"predictions": wanted}


@pytest.mark.parametrize("value", [object(), {"x": torch.ones(1), "y": {1, 2}}, [b"bytes"], {}, None])
def test_what_has_no_json_is_refused_and_never_dropped(value: Any) -> None:
    with pytest.raises(ModelRejected, match="the model returned a"):
        arrays(value)


def test_names_do_not_depend_on_how_many_there_are() -> None:
    one = [{"boxes": torch.zeros(3, 4), "labels": torch.zeros(3)}]
    assert set(arrays(one)) == {"output_0.boxes", "output_0.labels"}
    assert arrays(one)["output_0.boxes"].shape == (3, 4)
    with pytest.raises(KeyError):
        arrays(one)["output_1.boxes"]
    assert set(arrays([*one, *one])) == {f"output_{at}.{name}" for at in (0, 1) for name in ("boxes", "labels")}
    assert isinstance(arrays((torch.zeros(2),)), np.ndarray)


@pytest.mark.parametrize("value", ["cat", ["cat", "dog"], {"label": ["cat", "dog"], "score": torch.ones(2)}])
def test_text_is_an_answer(value: Any) -> None:
    found = arrays(value)
    encoded = orjson.loads(json_dialects.encode(found, Decoded(np.zeros(1), "data")).body)["predictions"]
    assert "cat" in orjson.dumps(encoded).decode()
    v2 = orjson.loads(oip_v2.encode(found, Decoded(np.zeros(1), "v2")).body)["outputs"]
    assert next(item for item in v2 if item["datatype"] == "BYTES")["data"][0] == "cat"


def test_text_in_binary_has_its_length_before_it() -> None:
    asked = oip_v2.Asked(identifier=None, binary=True, outputs=None)
    body = oip_v2.encode(np.array(["né", ""]), Decoded(np.zeros(1), "v2", asked)).body
    assert body.endswith(b"\x03\x00\x00\x00n\xc3\xa9\x00\x00\x00\x00")


def test_onnx_labels_and_maps(tmp_path: Path) -> None:
    from score.formats._program.onnx_graph import _output

    assert _output(np.array(["a", "b"], dtype=object)).tolist() == ["a", "b"]
    assert {key: value.tolist() for key, value in _output([{"a": 0.25, "b": 0.75}, {"a": 1.0, "b": 0.0}]).items()} == {
        "a": [0.25, 1.0],
        "b": [0.75, 0.0],
    }


def test_several_labels_at_a_time_are_each_by_themselves() -> None:
    logits = np.array([[2.0, 1.0, -3.0]], np.float32)
    (best,) = Task(problem="multi_label_classification").top(logits, 3)
    wanted = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
    np.testing.assert_allclose([item["probability"] for item in best], wanted)
    (single,) = Task(problem="single_label_classification").top(logits, 3)
    assert sum(item["probability"] for item in single) == pytest.approx(1)


def test_a_regression_has_no_classes() -> None:
    with pytest.raises(TopKUnavailable, match="regression"):
        Task(problem="regression").top(np.zeros((1, 1), np.float32), 1)


def test_one_number_is_no_choice_between_classes() -> None:
    with pytest.raises(TopKUnavailable, match="one number"):
        Task().top(np.zeros((3, 1), np.float32), 1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"data": [[1]], "parameters": {"topk": 2}}, "did you mean top_k"),
        ({"inputs": [[1]], "parameters": {"max_new_tokens": 5}}, "max_new_tokens"),
        ({"instances": [[1]], "params": {"temperature": 1}}, "temperature"),
        ({"data": [[1]], "parameter": {"top_k": 2}}, "did you mean parameters"),
        ({"data": [[1]], "top_k": 2}, "top_k"),
    ],
)
def test_a_parameter_that_nothing_takes_is_named(body: dict[str, Any], says: str) -> None:
    with pytest.raises(UnknownParameter, match=says):
        json_dialects.decode(Body(orjson.dumps(body)))


def test_a_parameter_of_the_open_inference_protocol() -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}
    assert oip_v2.decode(Body(orjson.dumps({"inputs": [tensor], "parameters": {"top_k": 3}}))).top_k == 3
    with pytest.raises(UnknownParameter, match="binary_data_output"):
        oip_v2.decode(Body(orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_ouput": True}})))
