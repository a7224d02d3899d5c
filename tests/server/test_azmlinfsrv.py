"""The seam to azmlinfsrv: which requests it has to see, and what is added to answers that pass it by."""

import logging

import pytest
from flask import Flask, g
from flask import request as current_request

from score.server import azmlinfsrv
from score.server.answer import Answer
from score.server.models import Models
from score.server.service import Head, Service


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, False),
        ({"x-request-id": "r1"}, False),
        ({"traceid": "t"}, True),
        ({"x-ms-request-id": "m"}, True),
        ({"x-request-id": "r" * 101}, True),
        ({"x-ms-client-request-id": "c\x01"}, True),
    ],
)
def test_which_requests_go_through_flask(headers: dict[str, str], wanted: bool) -> None:
    assert azmlinfsrv.wants(headers) == wanted


def test_the_headers_that_azmlinfsrv_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_X_MS_SERVER_VERSION", "azmlinfsrv/1.5.1")
    monkeypatch.setattr(azmlinfsrv, "_version", azmlinfsrv._version.__wrapped__)
    head = Head.of("POST", b"", {"x-request-id": "r1", "x-ms-client-request-id": "c1"})
    found = azmlinfsrv.stamp(Answer(503, {"retry-after": "1"}), head, 0.0123)
    assert found == {
        "retry-after": "1",
        "x-ms-run-fn-exec-ms": "12.300",
        "x-ms-run-function-failed": "True",
        "x-ms-server-version": "azmlinfsrv/1.5.1",
        "x-request-id": "r1",
        "x-ms-request-id": "c1",
        "x-ms-client-request-id": "c1",
    }
    plain = azmlinfsrv.stamp(Answer(200), Head.of("POST", b"", {"x-request-id": "r1"}), 0.1)
    assert plain["x-ms-request-id"] == "r1"
    assert plain["x-ms-run-function-failed"] == "False"


def test_inside_of_flask(service: Service) -> None:
    azmlinfsrv.take_over(Models.of_one(service))
    app = Flask("stand-in")

    @app.route("/score", methods=["GET", "POST", "PUT"])
    def view() -> azmlinfsrv.Response:
        g.request_id = "flask-1"
        return azmlinfsrv.respond(current_request)  # type: ignore[arg-type]

    client = app.test_client()
    answered = client.post("/score", data='{"data": [[1,1,1,1,1,1,1,1,1,1]]}')
    assert answered.status_code == 200
    assert len(answered.json["predictions"][0]) == 2
    refused = client.post("/score", data=b"{")
    assert (refused.status_code, refused.json["error"]["request_id"]) == (400, "flask-1")
    assert client.get("/score").json["signature"]["inputs"] == {"x": "float32[N, 10]"}
    assert client.put("/score").status_code == 405


def test_its_two_lines_a_request_are_left_out() -> None:
    record = logging.LogRecord("azmlinfsrv", logging.INFO, "/x/routes.py", 1, "200", None, None)
    assert not azmlinfsrv._not_said_twice(record)
    for path, level in (("/x/routes.py", logging.ERROR), ("/x/other.py", logging.INFO)):
        assert azmlinfsrv._not_said_twice(logging.LogRecord("azmlinfsrv", level, path, 1, "x", None, None))
