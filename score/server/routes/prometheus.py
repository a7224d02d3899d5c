"""`GET /metrics`: the counters of all models and workers as Prometheus reads them.

Names are Triton's (`nv_inference_*`), so that its dashboards work, and beside them vLLM's with our own prefix. Requests
count in plain Python; only a scrape makes metrics of that. Of several workers, each writes its counters to a folder of
theirs soon after they change, and whichever is asked adds them up; those of a worker that has ended stay.

Specifications: prometheus.io/docs/instrumenting/exposition_formats; triton-inference-server/server, metrics.md.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from score import log
from score.errors import LoadError
from score.server.answer import Answer
from score.server.api import SCORE
from score.server.metrics import ROWS as ROW_ENDS
from score.server.metrics import SECONDS
from score.server.models import Models
from score.server.routes.table import Asked, Page, Row
from score.settings import METRICS

GATHER = 0.1  # seconds after which a worker's counters are written, if they have changed
_MODEL = ["model", "version"]
_HISTOGRAMS = (
    ("latency", "e2e_request_latency_seconds", "From the first byte of a request to its answer", SECONDS),
    ("queue", "request_queue_time_seconds", "In the queue for the model", SECONDS),
    ("compute", "request_inference_time_seconds", "In the forward pass", SECONDS),
    ("batch_rows", "batch_rows", "Rows of the forward pass that a request was part of", ROW_ENDS),
)
_TRITON = (
    ("success", "nv_inference_request_success", "Requests that were answered"),
    ("failure", "nv_inference_request_failure", "Requests that got an error"),
    ("rows", "nv_inference_count", "Rows that were answered"),
    ("passes", "nv_inference_exec_count", "Forward passes"),
    ("latency_us", "nv_inference_request_duration_us", "All that requests took, in microseconds"),
    ("queue_us", "nv_inference_queue_duration_us", "What they waited for the model"),
    ("compute_us", "nv_inference_compute_infer_duration_us", "What they were in the forward pass"),
)
_GAUGES = (
    ("waiting", "loadstone_num_requests_waiting", "Requests in the queue"),
    ("running", "loadstone_num_rows_running", "Rows in the forward pass that runs now"),
    ("weights", "loadstone_model_memory_bytes", "Weights in memory"),
    ("loaded", "loadstone_model_loaded", "Workers that have the model in memory"),
)
Totals = dict[str, Any]


def taken(models: Models) -> Totals:
    """What this worker has counted, and what there is now."""
    loaded = {service.name: service for service in models.loaded()}
    found: dict[str, Any] = {}
    for name, observer in models.observers().items():
        service = loaded.get(name)
        found[name] = observer.totals() | {
            "waiting": service.predictor.batcher.waiting if service else 0,
            "running": service.predictor.batcher.running if service else 0,
            "weights": service.predictor.report.bytes if service else 0,
            "loaded": int(service is not None),
        }
    versions = {each["name"]: each["version"] for each in models.index()}
    front = models.front.totals() if models.several else None
    gpus = {str(at): torch.cuda.memory_allocated(at) for at in range(torch.cuda.device_count() if _uses_cuda() else 0)}
    return {"models": found, "versions": versions, "front": front, "memory": _resident(), "gpus": gpus}


def _uses_cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def added(one: Any, other: Any) -> Any:
    """Totals of two workers together: numbers and lists of numbers are added, what is not in one is the other's."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: added(one[key], other[key]) if key in one and key in other else {**one, **other}[key]
                for key in {**one, **other}}  # fmt: skip
    if isinstance(one, list) and isinstance(other, list):
        pairs = [isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) for each in (*one, *other)]
        if pairs and all(pairs):  # errors by their codes
            return [[code, count] for code, count in added(dict(one), dict(other)).items()]
        if not one or not other:
            return one or other
        return [added(a, b) for a, b in zip(one, other, strict=True)]
    return one + other if isinstance(one, (int, float)) and isinstance(other, (int, float)) else one


class Shared:
    """The counters of all workers, in files of one folder."""

    def __init__(self, folder: Path, models: Models) -> None:
        self._folder, self._models = folder, models
        self._file = folder / f"{os.getpid()}.json"
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def _run(self) -> None:
        last = b""
        while True:
            try:
                now = orjson.dumps(taken(self._models))
                if now != last:
                    beside = self._file.with_suffix(".new")
                    beside.write_bytes(now)
                    beside.replace(self._file)
                    last = now
            except (OSError, LoadError):  # the folder is gone, and so the server; or there is no model to count for
                return
            except Exception:  # noqa: BLE001  # counting goes on with the next
                log.warning("the counters could not be written", exc_info=True)
            time.sleep(GATHER)

    def totals(self) -> Totals:
        """Of all workers, a moment after what was answered before."""
        time.sleep(2 * GATHER)
        found: Totals = {}
        for file in self._folder.glob("*.json"):
            totals = orjson.loads(file.read_bytes())
            if not Path("/proc", file.stem).exists():  # its counters stay, what it had is gone
                totals |= {"memory": 0, "gpus": {}}
                for each in totals["models"].values():
                    each |= {"waiting": 0, "running": 0, "weights": 0, "loaded": 0}
            found = added(found, totals) if found else totals
        return found


class _Families:
    """What a scrape collects."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Any]:
        models, versions = self._totals["models"], self._totals["versions"]
        labelled = [([name, versions.get(name, "1")], _derived(totals)) for name, totals in models.items()]
        if self._totals["front"] is not None:  # requests that named no model that there is
            labelled.append((["", ""], _derived(self._totals["front"] | dict.fromkeys(("weights", "loaded"), 0))))
        yield from _counters(labelled)
        for key, name, text, ends in _HISTOGRAMS:
            histogram = HistogramMetricFamily(f"loadstone_{name}", text, labels=_MODEL)
            for labels, totals in labelled:
                histogram.add_metric(labels, _buckets(totals[key][1], ends), totals[key][0])
            yield histogram
        for key, name, text in _GAUGES:
            yield _gauge(name, text, [(labels, totals.get(key, 0)) for labels, totals in labelled])
        yield _gauge("nv_inference_pending_request_count", "Requests in the queue", [
            (labels, totals.get("waiting", 0)) for labels, totals in labelled
        ])  # fmt: skip
        memory = GaugeMetricFamily("loadstone_resident_memory_bytes", "Memory of all workers")
        memory.add_metric([], self._totals["memory"])
        yield memory
        gpu = GaugeMetricFamily("nv_gpu_memory_used_bytes", "Memory of tensors on a GPU", labels=["gpu"])
        for at, used in self._totals["gpus"].items():
            gpu.add_metric([at], used)
        yield gpu


def _derived(totals: Mapping[str, Any]) -> dict[str, Any]:
    """With what Triton counts by itself."""
    failed = sum(count for _, count in totals["errors"])
    return {
        **totals,
        "failure": failed,
        "success": sum(totals["latency"][1]),
        **{f"{name}_us": totals[name][0] * 1e6 for name in ("latency", "queue", "compute")},
    }


def _counters(labelled: list[tuple[list[str], dict[str, Any]]]) -> Iterator[Any]:
    requests = CounterMetricFamily("loadstone_requests", "Requests by status", labels=[*_MODEL, "status"])
    errors = CounterMetricFamily("loadstone_request_errors", "Requests by their error", labels=[*_MODEL, "code"])
    for labels, totals in labelled:
        for status, count in totals["statuses"].items():
            requests.add_metric([*labels, status], count)
        for code, count in totals["errors"]:
            errors.add_metric([*labels, code], count)
    yield requests
    yield errors
    for key, name, text in _TRITON:
        found = _gauge(name, text, [(labels, totals[key]) for labels, totals in labelled])
        found.type = "counter"  # which prometheus-client would give a name that ends in _total, and Triton does not
        yield found


def _gauge(name: str, text: str, values: Iterable[tuple[list[str], float]]) -> GaugeMetricFamily:
    found = GaugeMetricFamily(name, text, labels=_MODEL)
    for labels, value in values:
        found.add_metric(labels, value)
    return found


def _buckets(counts: list[int], ends: Iterable[float]) -> list[tuple[str, float]]:
    found, so_far = [], 0
    for end, count in zip([*map(str, ends), "+Inf"], counts, strict=True):
        so_far += count
        found.append((end, float(so_far)))
    return found


def exposed(totals: Totals) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(_Families(totals))  # type: ignore[arg-type]
    return bytes(generate_latest(registry))


_shared: Shared | None = None


def share(models: Models) -> None:
    """From now on, count together with the other workers, where there are any."""
    global _shared
    if (folder := os.environ.get(METRICS)) and Path(folder).is_dir():
        _shared = Shared(Path(folder), models)


def _metrics(asked: Asked) -> Answer:
    totals = _shared.totals() if _shared is not None else taken(asked.models)
    return Answer(200, {"content-type": CONTENT_TYPE_LATEST}, exposed(totals))


ROWS: tuple[Row, ...] = (Page("/metrics", "Counters, as Prometheus reads them", _metrics, SCORE, kind="text/plain"),)
