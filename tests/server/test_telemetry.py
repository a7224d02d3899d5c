"""Measurements and spans, as OpenTelemetry's own readers see them."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from score.server.metrics import Observer
from score.server.telemetry import Telemetry
from tests.server.records import exchange


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
