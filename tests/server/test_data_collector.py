"""Inputs and outputs that go to Azure ML's data collector."""

import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from score.server import data_collector
from score.server.data_collector import Collector
from tests.server.records import exchange


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[dict[str, str], Any]]]:
    """The part of Azure ML that data are posted to, as `azureml-ai-monitoring` finds it."""
    received: list[tuple[dict[str, str], Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(({name.lower(): value for name, value in self.headers.items()}, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AZUREML_MDC_ENABLED", "true")
    monkeypatch.setenv("AZUREML_MDC_PORT", str(server.server_port))
    yield received
    server.shutdown()


def test_inputs_and_outputs_are_collected(sink: list[tuple[dict[str, str], Any]]) -> None:
    collector = Collector.if_wanted(True)
    assert collector is not None
    collector.saw(exchange(status=422))  # nothing to collect
    collector.saw(exchange(rows=2))
    deadline = time.monotonic() + 30
    while len(sink) < 2:
        assert time.monotonic() < deadline, sink
        time.sleep(0.02)
    found = {headers["ce-type"].rsplit(".", 1)[-1]: (headers, body) for headers, body in sink}
    assert set(found) == {"model_inputs", "model_outputs"}
    assert found["model_inputs"][1] == [{"x_0": 1.0, "x_1": 1.0, "x_2": 1.0}] * 2
    assert found["model_outputs"][1] == [{"output_0": 0.0, "output_1": 0.0}] * 2
    assert found["model_inputs"][0]["ce-x-request-id"] == "r1"


def test_collection_never_raises_into_a_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def collect(self, *_args: Any) -> None:
            raise RuntimeError("the sink is gone")

    collector = Collector(Broken(), Broken())
    with caplog.at_level(logging.WARNING, "azmlinfsrv.score"):
        collector.saw(exchange())
        deadline = time.monotonic() + 30
        while "the sink is gone" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert Collector.if_wanted(False) is None


def test_what_does_not_fit_is_dropped_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(data_collector, "MOST_WAITING", 0)
    collector = Collector(None, None)
    with caplog.at_level(logging.WARNING, "azmlinfsrv.score"):
        for _ in range(5):
            collector.saw(exchange())
    assert collector.dropped == 5
    assert [record.args for record in caplog.records] == [(1,), (2,), (4,)]  # at each power of two
