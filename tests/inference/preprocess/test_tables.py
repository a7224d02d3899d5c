"""Tables whose columns have names, as a model's inputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from models.simple_model import SimpleModel
from score.codecs.base import Body, Decoded
from score.errors import InvalidItem, RaggedRows, WrongDtype, WrongInputs
from score.inference.pipeline import infer, load_model
from score.inference.preprocess import files, tables
from score.inference.signature import parse, validate
from score.settings import Settings

ONE = parse("float32[N, 3]", ["x"], "said")
NAMED = parse({"age": "float32[N, 1]", "size": "float32[N]"}, ["age", "size"], "said")


def table(columns: str, *rows: list[float]) -> Decoded:
    return Decoded(np.array(rows), "csv", columns=tuple(columns.split()))


def test_columns_are_put_into_the_order_that_was_recorded() -> None:
    found = tables.of_columns(table("c a b", [3, 1, 2], [6, 4, 5]), ONE, ("a", "b", "c"))
    assert np.asarray(found).tolist() == [[1, 2, 3], [4, 5, 6]]
    for columns in ("a b", "a b c d", "a b x"):
        rows = [float(at) for at, _ in enumerate(columns.split())]
        with pytest.raises(WrongInputs, match="takes the columns a, b, c"):
            tables.of_columns(table(columns, rows), ONE, ("a", "b", "c"))


def test_columns_called_as_inputs_are_these() -> None:
    found: Any = tables.of_columns(table("size age", [3, 1], [6, 4]), NAMED, ())
    assert {name: values.tolist() for name, values in found.items()} == {"age": [[1], [4]], "size": [3, 6]}


def test_other_columns_stay_as_they_came() -> None:
    assert np.asarray(tables.of_columns(table("x y z", [1, 2, 3]), ONE, ())).tolist() == [[1, 2, 3]]
    with pytest.raises(RaggedRows, match="3 columns"):
        tables.of_columns(Decoded(np.array([1.0, 2.0]), "csv", columns=("x", "y", "z")), ONE, ())


def test_a_declared_datatype_is_what_it_is() -> None:
    numbers = {"x": np.ones((1, 3), np.int32)}
    with pytest.raises(WrongDtype, match="not cast in silence"):
        validate(ONE, numbers, declared=True)
    assert validate(ONE, numbers)["x"].tolist() == [[1, 1, 1]]  # JSON's 1 is any number
    half = {"another name": np.ones((1, 3), np.float16)}
    assert validate(ONE, half, declared=True)["x"].tolist() == [[1, 1, 1]]
    with pytest.raises(WrongInputs):
        validate(ONE, half)
    with pytest.raises(WrongInputs):
        validate(NAMED, {"a": np.ones((1, 1)), "b": np.ones(1)}, declared=True)


def test_files_in_base64() -> None:
    for item in ("aGk=", {"b64": "aGk="}, "data:image/png;base64,aGk="):
        assert files.of_item(item, "a picture").data == b"hi"
    for item in ("https://example.com/a.png", {"b64": 7}, {"url": "x"}, 7, "a b"):
        with pytest.raises(InvalidItem, match="file in base64"):
            files.of_item(item, "a picture")


def test_columns_that_an_mlflow_model_recorded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SimpleModel()
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    torch.save(model.state_dict(), folder / "data" / "model.pth")
    names = [f"c{at}" for at in range(10)]
    columns = [{"name": name, "type": "double", "required": True} for name in names]
    document = {
        "flavors": {"pytorch": {"model_data": "data"}, "python_function": {"data": "data"}},
        "signature": {"inputs": json.dumps(columns)},
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    predictor = load_model(Settings.load(folder, device="cpu"))
    row = np.linspace(-1, 1, 10, dtype=np.float32)
    wanted = model(torch.from_numpy(row)).tolist()
    shuffled = np.random.default_rng(1).permutation(10)
    mixed = {"columns": [names[at] for at in shuffled], "data": [row[shuffled].tolist()]}
    records = [{names[at]: float(row[at]) for at in shuffled}]
    text = ",".join(mixed["columns"]) + "\n" + ",".join(map(str, row[shuffled]))
    for body in (
        Body(json.dumps({"dataframe_split": mixed}).encode()),
        Body(json.dumps({"input_data": mixed}).encode()),
        Body(json.dumps({"dataframe_records": records}).encode()),
        Body(text.encode(), "text/csv"),
        Body(json.dumps({"inputs": [row.tolist()]}).encode()),
    ):
        np.testing.assert_allclose(np.asarray(infer(predictor, body).outputs)[0], wanted, rtol=1e-4)
    missing = {"columns": names[:9], "data": [row[:9].tolist()]}
    with pytest.raises(WrongInputs, match="takes the columns c0"):
        infer(predictor, Body(json.dumps({"dataframe_split": missing}).encode()))
