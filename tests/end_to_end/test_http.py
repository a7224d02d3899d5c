"""Every way of asking, good and bad, over HTTP."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.simple_model import SimpleModel
from tests.real_server import Server, running

ROW = [0.5] * 10


@pytest.fixture(scope="module")
def model() -> SimpleModel:
    torch.manual_seed(3)
    return SimpleModel()


@pytest.fixture(scope="module")
def server(model: SimpleModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("simple")
    torch.save(model.state_dict(), folder / "model.pt")
    with running(folder, tmp_path_factory.mktemp("server"), SCORE_MAX_BODY_MB="0.1") as server:
        yield server


@pytest.fixture(scope="module")
def wanted(model: SimpleModel) -> list[float]:
    with torch.inference_mode():
        values: list[float] = model(torch.tensor([ROW]))[0].tolist()
    return values


@pytest.mark.parametrize(
    "document",
    [
        {"data": [ROW]},
        {"inputs": [ROW]},
        {"inputs": {"x": [ROW]}},
        {"instances": [ROW]},
        {"instances": [{"x": ROW}]},
        {"input_data": {"columns": [f"c{n}" for n in range(10)], "index": [0], "data": [ROW]}},
        {"input_data": [ROW]},
        {"dataframe_split": {"columns": [f"c{n}" for n in range(10)], "data": [ROW]}},
    ],
    ids=lambda document: "-".join(document),
)
def test_each_dialect_is_answered_in_kind(server: Server, wanted: list[float], document: dict[str, Any]) -> None:
    answer = server.post(document)
    assert answer.status == 200, answer.body
    bare = "input_data" in document or "dataframe_split" in document
    rows = answer.json if bare else answer.json["predictions"]
    assert rows == [pytest.approx(wanted, abs=1e-5)]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
def test_json_is_read_whatever_its_content_type_says(server: Server, wanted: list[float], content_type: str) -> None:
    answer = server.request(body=json.dumps({"data": [ROW]}).encode(), Content_Type=content_type)
    assert answer.json["predictions"] == [pytest.approx(wanted, abs=1e-5)]


def test_integers_are_cast_to_the_models_dtype(server: Server) -> None:
    whole, real = server.post({"data": [[1] * 10]}), server.post({"data": [[1.0] * 10]})
    assert whole.status == 200
    assert whole.json == real.json


BAD = {
    "empty body": (b"", 400, "empty_body"),
    "invalid JSON": (b'{"data": [[1, 2]', 400, "invalid_json"),
    "not UTF-8": (b'{"data": "\xff\xfe"}', 400, "invalid_json"),
    "NaN": (b'{"data": [[NaN,1,1,1,1,1,1,1,1,1]]}', 400, "invalid_json"),
    "a bare list": (b"[[1,2]]", 400, "unknown_body"),
    "no known key": (b'{"rows": [[1]]}', 400, "unknown_body"),
    "wrong rank": (json.dumps({"data": ROW}).encode(), 400, "wrong_shape"),
    "wrong width": (b'{"data": [[1, 2, 3]]}', 400, "wrong_shape"),
    "too deep": (json.dumps({"data": [[ROW]]}).encode(), 400, "wrong_shape"),
    "ragged rows": (b'{"data": [[1, 2], [3]]}', 400, "ragged_rows"),
    "strings": (b'{"data": [["1", "2"]]}', 400, "not_numeric"),
    "null": (b'{"data": [[null, 2]]}', 400, "not_numeric"),
    "an object": (b'{"data": [[{}]]}', 400, "not_numeric"),
    "a huge integer": (b'{"data": [[' + b",".join([b"9" * 40] * 10) + b"]]}", 400, "wrong_dtype"),
    "beyond float32": (json.dumps({"data": [[1e39] * 10]}).encode(), 400, "wrong_dtype"),
    "1,000 deep": (b'{"data":' + b"[" * 1000 + b"]" * 1000 + b"}", 400, "not_numeric"),
    "100,000 deep": (b'{"data":' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400, "invalid_json"),
    "unknown input": (json.dumps({"inputs": {"y": [ROW]}}).encode(), 400, "wrong_inputs"),
    "nothing in it": (b'{"data": []}', 400, "wrong_shape"),
    "too large": (b" " * 100_001, 413, "body_too_large"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_answered_with_what_is_wrong(server: Server, name: str) -> None:
    body, status, code = BAD[name]
    answer = server.request(body=body, Content_Type="application/json")
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (status, code), error
    assert error["message"]
    assert error["hint"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.body.decode()


def test_a_wrong_shape_says_expected_and_received(server: Server) -> None:
    message = server.post({"data": [[1, 2, 3]]}).json["error"]["message"]
    assert "float32[N, 10]" in message
    assert "[1, 3]" in message


def test_a_missing_data_row_names_its_place(server: Server) -> None:
    message = server.post({"data": [ROW, [1, 2, None, 4, 5, 6, 7, 8, 9, 10]]}).json["error"]["message"]
    assert "data[1][2] is null" in message


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("PUT", "/score", 405, "method_not_allowed"),
        ("DELETE", "/score", 405, "method_not_allowed"),
        ("POST", "/nowhere", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
    ],
)
def test_wrong_methods_and_paths(server: Server, method: str, path: str, status: int, code: str) -> None:
    answer = server.request(path, body=b"{}", method=method)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


def test_an_unknown_content_type_is_415(server: Server) -> None:
    answer = server.request(body=b"\x89PNG\r\n", Content_Type="image/png")
    assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_media_type")


def test_liveness_and_the_model_card(server: Server) -> None:
    assert server.request("/", method="GET").body == b"Healthy"
    card = server.request(method="GET").json
    assert card["model"]["architecture"] == "SimpleModel"
    assert card["model"]["device"] == "cpu"
    assert card["versions"]["torch"] == torch.__version__
    assert server.request(method="HEAD").status == 200


def test_the_server_outlives_all_of_this(server: Server, wanted: list[float]) -> None:
    for body, _, _ in BAD.values():
        server.request(body=body)
    assert server.post({"data": [ROW]}).json["predictions"] == [pytest.approx(wanted, abs=1e-5)]
    assert server.process.poll() is None


def test_the_log_tells_the_load_report(server: Server) -> None:
    assert "architecture SimpleModel (recognised by keys and shapes)" in server.log
    line = next(line for line in server.log.splitlines() if "load report {" in line)
    report = json.loads(line.partition("load report ")[2])
    assert {
        "format",
        "weights_path",
        "prefix",
        "tensors",
        "parameters",
        "dtypes",
        "device",
        "gb_per_s",
        "ignored",
    } <= set(report)


def test_nan_and_infinity_in_an_answer_become_null(tmp_path: Path) -> None:
    model = SimpleModel()
    with torch.no_grad():
        model.linear.bias.copy_(torch.tensor([float("nan"), float("inf")]))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with running(tmp_path, tmp_path) as server:
        answer = server.post({"data": [ROW]})
    assert answer.status == 200
    assert answer.body == b'{"predictions":[[null,null]]}'


def test_browsers_get_a_page_and_everyone_else_json(server: Server) -> None:
    browsers = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
    page = server.request(method="GET", Accept=browsers)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Vary"] == "Accept"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert len(page.body) < 100_000
    assert not re.search(rb"""(src|href)\s*=\s*["']?(https?:)?//""", page.body)  # it needs nothing from elsewhere
    for accept in ("*/*", "application/json", "application/json, text/html"):
        assert server.request(method="GET", Accept=accept).json["model"]
