"""What is counted, logged, exported and collected of each exchange."""

import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from score.inference.batching.queue import Pass
from score.server.data_collector import Collector
from score.server.metrics import Observer, RequestRecord, percentiles
from score.server.telemetry import Telemetry


def exchange(status: int = 200, rows: int = 2, batch: int = 8, error: str = "") -> RequestRecord:
    found = RequestRecord("r1", began=time.perf_counter() - 0.1, codec="json", status=status, error=error)
    if status == 200:
        inputs = {"x": torch.ones(rows, 3)}
        found.inputs = inputs
        found.answered(np.zeros((rows, 2)), Pass(0.02, 0.05, rows, batch))
    return found


def test_counters_and_percentiles() -> None:
    observer = Observer(log_requests=False)
    for _ in range(9):
        observer.saw(exchange())
    observer.saw(exchange(status=429, error="queue_full"))
    found = observer.snapshot()
    assert (found["requests"], found["rows"], found["by_status"]) == (10, 18, {"200": 9, "429": 1})
    assert found["requests_by_batch_rows"] == {"8": 9}
    assert found["queue_ms"] == {"p50": 20.0, "p90": 20.0, "p99": 20.0}
    assert found["compute_ms"]["p99"] == 50.0
    assert found["latency_ms"]["p50"] >= 100.0
    assert found["requests_per_s"] > 0


def test_percentiles_are_nearest_ranks() -> None:
    assert percentiles([]) == {}
    assert percentiles([number / 1000 for number in range(100)]) == {"p50": 50.0, "p90": 90.0, "p99": 99.0}


def test_a_request_is_one_line_of_pairs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "azmlinfsrv.score"):
        Observer(log_requests=True).saw(exchange(status=200))
        Observer(log_requests=True).saw(exchange(status=504, error="deadline_passed"))
        Observer(log_requests=False).saw(exchange())
    answered, refused = (dict(pair.split("=") for pair in line.split()[1:]) for line in caplog.messages)
    assert answered["id"] == "r1"
    assert (answered["status"], answered["rows"], answered["batch_rows"]) == ("200", "2", "8")
    assert (float(answered["queue_ms"]), float(answered["compute_ms"])) == (20.0, 50.0)
    assert float(answered["total_ms"]) >= 100
    assert (refused["status"], refused["error"]) == ("504", "deadline_passed")


def test_a_clients_id_adds_nothing_to_the_log() -> None:
    found = exchange()
    found.request_id = "r1 status=200 error=none\x85é"
    assert found.line().split()[:3] == [
        "request",
        f"id={ascii(found.request_id).replace(' ', chr(92) + 'x20')}",
        "status=200",
    ]
    assert found.line().isascii()


def test_metrics_and_spans() -> None:
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(MeterProvider([reader]), tracers)
    given = exchange()
    given.trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    observer = Observer(log_requests=False)
    for watcher in (observer, telemetry):
        watcher.saw(given)
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    duration = metrics["http.server.request.duration"].data.data_points[0]
    assert duration.attributes["http.response.status_code"] == 200
    assert duration.sum == pytest.approx(given.total)
    assert metrics["loadstone.queue.duration"].data.data_points[0].sum == pytest.approx(0.02)
    assert metrics["loadstone.compute.duration"].data.data_points[0].sum == pytest.approx(0.05)
    assert metrics["loadstone.batch.rows"].data.data_points[0].sum == 8
    assert metrics["loadstone.rows"].data.data_points[0].value == 2

    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"POST /score", "queue", "model"}
    whole = spans["POST /score"]
    assert f"{whole.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"  # the caller's trace
    assert (whole.end_time - whole.start_time) / 1e9 == pytest.approx(given.total, abs=1e-3)
    assert (spans["model"].end_time - spans["model"].start_time) / 1e9 == pytest.approx(0.05, abs=1e-3)
    assert spans["queue"].end_time == spans["model"].start_time
    assert spans["queue"].start_time >= whole.start_time
    assert spans["queue"].parent.span_id == whole.context.span_id


def test_nothing_is_recorded_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AML_APP_INSIGHTS_ENABLED", raising=False)
    assert Telemetry.if_exported() is None


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
