"""Metrics and spans by OpenTelemetry, with the SDK that azmlinfsrv ships.

azmlinfsrv exports spans and logs to Application Insights where AML_APP_INSIGHTS_ENABLED and AML_APP_INSIGHTS_KEY are
set, but no metrics; then they are exported here. A provider that was set by others, such as auto-instrumentation, is
used as it is.

Names and units follow OpenTelemetry's semantic conventions for HTTP servers where these have one.
"""

import os
import time

from opentelemetry import metrics, propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from score import log
from score.server.metrics import RequestRecord

SCOPE = "loadstone"


class Telemetry:
    """Records each exchange as measurements, and as a span with the time in the queue and in the model below it."""

    def __init__(self, meters: metrics.MeterProvider | None, tracers: trace.TracerProvider | None) -> None:
        meter = metrics.get_meter(SCOPE, meter_provider=meters)
        self._duration = meter.create_histogram(
            "http.server.request.duration", "s", "From the first byte to the answer"
        )
        self._queued = meter.create_histogram("loadstone.queue.duration", "s", "In the queue for the model")
        self._computed = meter.create_histogram("loadstone.compute.duration", "s", "In the forward pass")
        self._batch = meter.create_histogram("loadstone.batch.rows", "{row}", "Rows of the forward pass")
        self._rows = meter.create_counter("loadstone.rows", "{row}", "Rows answered")
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracers)

    @classmethod
    def if_exported(cls) -> "Telemetry | None":
        """None where nobody listens, so that nothing is paid for."""
        if os.environ.get("AML_APP_INSIGHTS_ENABLED") == "true" and not _measured():
            _export_metrics(os.environ.get("AML_APP_INSIGHTS_KEY", ""))
        traced = isinstance(trace.get_tracer_provider(), TracerProvider)
        return cls(None, None) if traced or _measured() else None

    def saw(self, exchange: RequestRecord) -> None:
        attributes: dict[str, str | int] = {
            "http.request.method": "POST",
            "http.route": exchange.route,
            "http.response.status_code": exchange.status,
        }
        if exchange.error:
            attributes["error.type"] = exchange.error
        self._duration.record(exchange.total, attributes)
        took = exchange.took
        if took is not None:
            self._queued.record(took.queued)
            self._computed.record(took.computed)
            self._batch.record(took.batch_rows)
            self._rows.add(took.rows)
        end = time.time_ns()
        began = end - int(exchange.total * 1e9)
        details: dict[str, str | int] = {
            **attributes,
            "loadstone.request_id": exchange.request_id,
            "loadstone.codec": exchange.codec,
        }
        if took is not None:
            details |= {"loadstone.rows": took.rows, "loadstone.batch_rows": took.batch_rows}
        parent = propagate.extract(exchange.trace)
        span = self._tracer.start_span(
            f"POST {exchange.route}", parent, trace.SpanKind.SERVER, details, start_time=began
        )
        if took is not None:
            # The model's part ended with the answer, but for its encoding.
            inside = trace.set_span_in_context(span)
            middle = end - int((exchange.total - exchange.until_answer) * 1e9)
            started = middle - int(took.computed * 1e9)
            queued = self._tracer.start_span("queue", inside, start_time=started - int(took.queued * 1e9))
            queued.end(started)
            self._tracer.start_span("model", inside, start_time=started).end(middle)
        if exchange.status >= 500:
            span.set_status(trace.StatusCode.ERROR, exchange.error)
        span.end(end)


def _measured() -> bool:
    return isinstance(metrics.get_meter_provider(), MeterProvider)


def _export_metrics(key: str) -> None:
    from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    try:
        exporter = AzureMonitorMetricExporter(connection_string=f"InstrumentationKey={key}")
    except ValueError as error:
        log.warning("metrics are not exported to Application Insights: %s", error)
        return
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter)]))
