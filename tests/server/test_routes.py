"""The routes of other protocols, over HTTP: one model, and several."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.simple_model import SimpleModel
from score.server.routes import every_row, vertex
from score.server.routes.table import Predicts
from tests.real_server import Server, running, until

ROW = [float(each) for each in range(10)]
INFER = {"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP32", "data": ROW}]}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """What each of three models answers to ROW."""
    found = {}
    for at, name in enumerate(("cats", "dogs", "mice")):
        torch.manual_seed(at)
        model = SimpleModel()
        found[name] = model(torch.tensor([ROW])).tolist()[0]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "animals"
    made.mkdir()
    for at, name in enumerate(("cats", "dogs", "mice")):
        torch.manual_seed(at)
        torch.save(SimpleModel().state_dict(), made / f"{name}.pt")
    (made / "broken.pt").write_bytes((made / "cats.pt").read_bytes()[:700])
    return made


@pytest.fixture(scope="module")
def one(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    routes = {"AIP_PREDICT_ROUTE": "/vertex/models/7:predict", "AIP_HEALTH_ROUTE": "/vertex/health"}
    with running(folder / "cats.pt", tmp_path_factory.mktemp("one"), **routes) as server:
        yield server


@pytest.fixture(scope="module")
def several(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(folder, tmp_path_factory.mktemp("several")) as server:
        yield server


def post(server: Server, path: str, document: Any, **headers: str) -> Any:
    return server.request(path, json.dumps(document).encode(), **{"Content_Type": "application/json"} | headers)


def get(server: Server, path: str) -> Any:
    return server.request(path, method="GET")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v2", {"name": "loadstone"}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/cats", {"name": "cats", "versions": ["1"], "platform": "pytorch"}),
        ("/v2/models/cats/versions/1", {"name": "cats"}),
        ("/v2/models/cats/ready", {"ready": True}),
        ("/v2/models/cats/config", {"max_batch_size": 64, "backend": "pytorch"}),
        ("/v2/models/cats/stats", {}),
        ("/v2/trace/setting", {"trace_level": ["OFF"]}),
        ("/v2/logging", {"log_info": True}),
        ("/v1/models", {"models": ["cats"], "object": "list"}),
        ("/v1/models/cats", {"ready": True, "id": "cats", "object": "model"}),
        ("/v1/models/cats/versions/1", {"ready": True}),
        ("/v1/models/cats/metadata", {}),
        ("/ping", {"status": "Healthy"}),
        ("/health", {"status": "Healthy"}),
        ("/vertex/health", {"status": "Healthy"}),
        ("/score/cats", {}),
    ],
)
def test_what_is_asked_of_a_server(one: Server, path: str, says: dict[str, Any]) -> None:
    found = get(one, path)
    assert found.status == 200, found.body
    assert says.items() <= found.json.items()


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/score", {"data": [ROW]}, "predictions"),
        ("/score/cats", {"data": [ROW]}, "predictions"),
        ("/v1/models/cats:predict", {"instances": [ROW]}, "predictions"),
        ("/v1/models/cats/versions/1:predict", {"instances": [ROW]}, "predictions"),
        ("/v1/models/cats:predict", {"inputs": [ROW]}, "outputs"),
        ("/invocations", {"inputs": [ROW]}, "predictions"),
        ("/invocations", {"instances": [ROW]}, "predictions"),
        ("/invocations", {"dataframe_split": {"columns": list("abcdefghij"), "data": [ROW]}}, "predictions"),
        ("/invocations", {"dataframe_records": [dict(zip("abcdefghij", ROW, strict=True))]}, "predictions"),
        ("/invocations", [ROW], "predictions"),
        ("/predictions/cats", {"data": [ROW]}, "predictions"),
        ("/predictions/cats/1", [ROW], "predictions"),
        ("/vertex/models/7:predict", {"instances": [ROW]}, "predictions"),
    ],
)
def test_each_door_leads_to_the_model(one: Server, wanted: dict[str, Any], path: str, body: Any, key: str) -> None:
    found = post(one, path, body)
    assert found.status == 200, found.body
    np.testing.assert_allclose(found.json[key], [wanted["cats"]], rtol=1e-5)
    assert found.headers["x-ms-run-function-failed"] == "False"


def test_tensors_of_the_open_inference_protocol(one: Server, wanted: dict[str, Any]) -> None:
    for path in ("/v2/models/cats/infer", "/v2/models/cats/versions/1/infer"):
        found = post(one, path, INFER | {"id": "r1"}).json
        assert (found["model_name"], found["model_version"], found["id"]) == ("cats", "1", "r1")
        np.testing.assert_allclose(found["outputs"][0]["data"], wanted["cats"], rtol=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v2/models/dogs/infer", INFER, 404, "unknown_model"),
        ("/v2/models/cats/versions/2/infer", INFER, 404, "version 1"),
        ("/v2/models/cats/infer", {"data": [ROW]}, 400, "invalid_tensor"),
        ("/v2/repository/models/cats/unload", {}, 409, "not_supported"),
        ("/v2/systemsharedmemory/region/a/register", {}, 409, "not_supported"),
        ("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}, 409, "not_supported"),
        ("/v2/logging", {"log_verbose_level": 3}, 409, "not_supported"),
        ("/v1/models/dogs:predict", {"instances": [ROW]}, 404, "unknown_model"),
    ],
)
def test_errors_are_the_protocols_text(one: Server, path: str, body: Any, status: int, says: str) -> None:
    found = post(one, path, body)
    assert found.status == status, found.body
    assert isinstance(found.json["error"], str)
    assert says in found.json["error"]


def test_errors_of_the_others(one: Server) -> None:
    assert post(one, "/invocations", {"inputs": [[1]]}).json["error_code"] == "BAD_REQUEST"
    assert post(one, "/predictions/dogs", {"data": [ROW]}).json["code"] == 404
    openai = post(one, "/v1/embeddings", {"input": "a text", "model": "cats"})
    assert (openai.status, openai.json["error"]["code"]) == (400, "model_not_for_route")
    assert get(one, "/v2/models/dogs").status == get(one, "/v2/models/dogs/ready").status == 404


def test_methods(one: Server) -> None:
    wrong = get(one, "/v2/models/cats/infer")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST, OPTIONS")
    for path in ("/score", "/v2/models/cats/infer", "/ping"):
        assert one.request(path, method="OPTIONS").status == 200
    assert one.request("/ping", method="HEAD").status == 200
    put = one.request("/predictions/cats", json.dumps({"data": [ROW]}).encode(), method="PUT")
    assert put.status == 200, put.body
    assert get(one, "/nothing/here").json["error"]["code"] == "not_found"


def test_tables_and_lines(one: Server, wanted: dict[str, Any]) -> None:
    text = ",".join(map(str, ROW)).encode()
    found = one.request("/invocations", text, Content_Type="text/csv")
    np.testing.assert_allclose(found.json["predictions"], [wanted["cats"]], rtol=1e-5)
    as_table = one.request("/invocations", text, Content_Type="text/csv", Accept="text/csv")
    np.testing.assert_allclose([float(each) for each in as_table.body.split(b",")], wanted["cats"], rtol=1e-5)
    lines = b"\n".join(json.dumps(ROW).encode() for _ in range(3))
    each_line = one.request("/score", lines, Content_Type="application/jsonlines").body.splitlines()
    assert len(each_line) == 3
    np.testing.assert_allclose(json.loads(each_line[2]), wanted["cats"], rtol=1e-5)


def test_counters_for_prometheus(one: Server) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    def value(name: str, **labels: str) -> float:
        text = get(one, "/metrics").body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    names = ("nv_inference_request_success", "nv_inference_count", "loadstone_batch_rows_sum")
    before = {name: value(name) for name in names}
    shapes = value("loadstone_request_errors_total", code="wrong_shape")
    assert post(one, "/score", {"data": [ROW] * 3}).status == 200
    assert post(one, "/score", {"data": [[1.0]]}).status == 400
    assert value(names[0], model="cats", version="1") == before[names[0]] + 1
    assert value(names[1]) == before[names[1]] + 3
    assert value(names[2]) == before[names[2]] + 3
    assert value("loadstone_request_errors_total", code="wrong_shape") == shapes + 1
    assert value("loadstone_e2e_request_latency_seconds_bucket", le="+Inf") == value(names[0])
    assert value("loadstone_resident_memory_bytes") > 1e7
    assert value("loadstone_model_loaded", model="cats") == 1


def test_several_models_each_by_its_name(several: Server, wanted: dict[str, Any]) -> None:
    listed = get(several, "/score").json["models"]
    assert [each["name"] for each in listed] == ["broken", "cats", "dogs", "mice"]
    unnamed = post(several, "/score", {"data": [ROW]})
    assert (unnamed.status, unnamed.json["error"]["code"]) == (400, "model_not_named")
    assert "broken, cats, dogs, mice" in unnamed.json["error"]["message"]
    ways: list[tuple[str, Any, dict[str, str]]] = [
        ("/score/dogs", {"data": [ROW]}, {}),
        ("/score", {"data": [ROW], "model": "dogs"}, {}),
        ("/score?model=dogs", {"data": [ROW]}, {}),
        ("/score", {"data": [ROW]}, {"azureml_model_name": "dogs"}),
        ("/invocations", {"inputs": [ROW], "model": "dogs"}, {}),
        ("/v1/models/dogs:predict", {"instances": [ROW]}, {}),
        ("/predictions/dogs", {"data": [ROW]}, {}),
    ]
    for path, body, headers in ways:
        found = post(several, path, body, **headers)
        assert found.status == 200, (path, found.body)
        np.testing.assert_allclose(found.json["predictions"], [wanted["dogs"]], rtol=1e-5)
    until(lambda: "model=dogs" in several.log)
    page = several.request("/score", method="GET", Accept="text/html")
    assert b'href="score/cats"' in page.body
    assert get(several, "/score/cats").json["model"]["architecture"] == "SimpleModel"


def test_one_that_is_broken_disturbs_no_other(several: Server, wanted: dict[str, Any]) -> None:
    found = post(several, "/score/broken", {"data": [ROW]})
    assert found.status == 503
    assert found.json["error"]["message"].startswith("broken: ")
    assert get(several, "/v2/models/broken/ready").status == 503
    assert get(several, "/v2/health/ready").status == 200
    np.testing.assert_allclose(
        post(several, "/score/mice", {"data": [ROW]}).json["predictions"], [wanted["mice"]], rtol=1e-5
    )


def test_models_are_unloaded_and_loaded_by_name(several: Server) -> None:
    assert post(several, "/v2/repository/models/cats/load", {}).status == 200
    assert post(several, "/v2/repository/models/cats/unload", {}).status == 200
    refused = post(several, "/v2/models/cats/infer", INFER)
    assert (refused.status, "model_unloaded" in refused.json["error"]) == (503, True)
    states = {each["name"]: each for each in post(several, "/v2/repository/index", {}).json}
    assert (states["cats"]["state"], states["cats"]["reason"]) == ("UNAVAILABLE", "unloaded")
    ready = [each["name"] for each in post(several, "/v2/repository/index", {"ready": True}).json]
    assert "cats" not in ready and "dogs" in ready
    assert post(several, "/v2/repository/models/cats/load", {}).status == 200
    assert post(several, "/v2/models/cats/infer", INFER).status == 200


def test_the_description_has_every_route(one: Server, several: Server) -> None:
    for server in (one, several):
        paths = get(server, "/swagger.json?version=3").json["paths"]
        assert {row.path for row in every_row()} | {"/score", "/score/{model}"} <= paths.keys()
    assert get(one, "/swagger.json").json["swagger"] == "2.0"  # as stock azmlinfsrv


def test_a_route_of_vertex_is_a_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/a/{model}")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/")
    assert vertex.rows() == ()
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/v1/endpoints/1/deployedModels/2:predict")
    (row,) = vertex.rows()
    assert isinstance(row, Predicts)
