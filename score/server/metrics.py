"""What is seen from outside: a line in the log for each request, and the counters and percentiles of `GET /score`."""

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from score.inference.batching.ticket import Pass
from score.server.log import say

FOLD = 512  # requests that are put into histograms at a time
RECENT = 4096  # requests that percentiles are taken over
WINDOW = 60.0  # seconds that rates are taken over
_ANSWERED = (
    "request id=%s status=%d total_ms=%.2f rows=%d batch_rows=%d queue_ms=%.2f compute_ms=%.2f codec=%s"  # one line
)
_FAILED = f"{_ANSWERED} error=%s"
_REFUSED = "request id=%s status=%d total_ms=%.2f codec=%s error=%s"
_PLAIN = re.compile(r"[\w.:/+@-]+", re.ASCII)
# Upper ends of histograms' buckets: seconds as vLLM has them, from what a small model takes; and rows.
SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
ROWS = tuple(float(1 << power) for power in range(11))
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass
class RequestRecord:
    """One request and its answer, filled in on the way. Times in seconds; `began` as time.perf_counter has it."""

    request_id: str
    began: float = field(default_factory=time.perf_counter)
    codec: str = "-"
    model: str = ""  # which of several
    route: str = "/score"
    took: Pass | None = None
    status: int = 0
    error: str = ""
    total: float = 0.0
    until_answer: float = 0.0  # until the model had answered
    trace: Any = field(default_factory=dict)  # the request's headers, which may name a trace
    inputs: dict[str, Any] | None = None
    outputs: Any = None

    def answered(self, outputs: Any, took: Pass) -> None:
        """The model's part is done."""
        self.outputs, self.took, self.until_answer = outputs, took, time.perf_counter() - self.began


def _line(
    asked: tuple[str, str, str], found: tuple[int, str], total: float, took: Pass | None
) -> tuple[str, tuple[Any, ...]]:
    """The exchange as `key=value` pairs, times in milliseconds."""
    (request_id, codec, model), (status, error) = asked, found
    # The id comes from the client, who must not be able to add pairs of its own.
    name = request_id if _PLAIN.fullmatch(request_id) else ascii(request_id).replace(" ", "\\x20")
    given = (name, status, total * 1e3)
    form: str = _REFUSED
    values: tuple[Any, ...] = (*given, codec, error)
    if took is not None:
        measured = (took.rows, took.batch_rows, took.queued * 1e3, took.computed * 1e3, codec)
        form, values = (_FAILED, (*given, *measured, error)) if error else (_ANSWERED, (*given, *measured))
    return (f"{form} model=%s", (*values, model)) if model else (form, values)


class Histogram:
    """How many values there were up to each end of a bucket, and what they were together."""

    def __init__(self, ends: tuple[float, ...]) -> None:
        self.ends, self._counts, self.total = ends, np.zeros(len(ends) + 1, np.int64), 0.0

    def add(self, values: Sequence[float]) -> None:
        self._counts += np.bincount(np.searchsorted(self.ends, values), minlength=len(self._counts))
        self.total += sum(values)

    @property
    def counts(self) -> list[int]:
        return self._counts.tolist()  # type: ignore[no-any-return]

    @property
    def count(self) -> int:
        return int(self._counts.sum())


_Seen = tuple[float, float, int, str, Pass | None]  # when, how long it took, its status, error and pass


class Observer:
    """Counts exchanges. From any thread."""

    def __init__(self, log_requests: bool) -> None:
        self._log_requests = log_requests
        self.confined: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._since = time.time()
        self._statuses: Counter[int] = Counter()
        self._rows = self._passes = 0
        self._codes: Counter[tuple[int, str]] = Counter()
        self._histograms = {
            "latency": Histogram(SECONDS),
            "queue": Histogram(SECONDS),
            "compute": Histogram(SECONDS),
            "batch_rows": Histogram(ROWS),
        }
        self._failed_seconds = 0.0
        self._fresh: deque[_Seen] = deque()  # requests that are counted nowhere yet
        self._batches: Counter[int] = Counter()  # requests by rows in their pass, in powers of two
        self._recent: deque[tuple[float, float, Pass]] = deque(maxlen=RECENT)
        self._seconds: deque[list[int]] = deque()  # [second, requests, rows], for the last WINDOW

    def saw(self, exchange: RequestRecord) -> None:
        """Take note of a request that has been answered, and log it."""
        now = time.perf_counter()
        exchange.total = now - exchange.began
        self._fresh.append((now, exchange.total, exchange.status, exchange.error, exchange.took))
        if len(self._fresh) >= FOLD:
            with self._lock:
                self._fold()
        if self._log_requests:
            asked, found = (exchange.request_id, exchange.codec, exchange.model), (exchange.status, exchange.error)
            say(_line, asked, found, exchange.total, exchange.took)

    def _fold(self) -> None:
        """Count what has gathered: many at a time take a fraction of what each by itself would."""
        fresh = [self._fresh.popleft() for _ in range(len(self._fresh))]
        if not fresh:
            return
        times, totals, statuses, errors, tooks = zip(*fresh, strict=True)
        self._statuses.update(statuses)
        failed = [at for at, error in enumerate(errors) if error]
        self._codes.update((statuses[at], errors[at]) for at in failed)
        self._failed_seconds += sum(totals[at] for at in failed)
        self._histograms["latency"].add([total for total, error in zip(totals, errors, strict=True) if not error])
        if ran := [each for each in zip(times, totals, tooks, strict=True) if each[2] is not None]:
            self._recent.extend(ran)
            queued, computed, rows, batch_rows, passes = zip(*(took for _, _, took in ran), strict=True)
            self._rows += sum(rows)
            self._passes += sum(passes)
            self._histograms["queue"].add(queued)
            self._histograms["compute"].add(computed)
            self._histograms["batch_rows"].add(batch_rows)
            for size, count in Counter(batch_rows).items():
                self._batches[1 << (size - 1).bit_length()] += count
        self._add_seconds(times, [took.rows if took else 0 for took in tooks])

    def _add_seconds(self, times: Sequence[float], rows: Sequence[int]) -> None:
        """Count requests and rows by the second, for the last WINDOW."""
        seconds, which = np.unique(np.asarray(times, np.int64), return_inverse=True)
        counted = zip(seconds.tolist(), np.bincount(which).tolist(), np.bincount(which, rows).tolist(), strict=True)
        for second, requests, their_rows in counted:
            if self._seconds and self._seconds[-1][0] >= second:  # threads' times may be a moment out of order
                self._seconds[-1][1] += requests
                self._seconds[-1][2] += int(their_rows)
            else:
                self._seconds.append([second, requests, int(their_rows)])
        while self._seconds and self._seconds[0][0] < seconds[-1] - WINDOW:
            self._seconds.popleft()

    def totals(self) -> dict[str, Any]:
        """All counts since the start, as JSON has them: of several workers, they can be added."""
        with self._lock:
            self._fold()
            return {
                "statuses": {str(status): count for status, count in self._statuses.items()},
                "errors": [[code, count] for (_, code), count in self._codes.items()],
                "rows": self._rows,
                "passes": self._passes,
                "failed_s": self._failed_seconds,
                **{name: [each.total, each.counts] for name, each in self._histograms.items()},
            }

    def as_triton(self) -> dict[str, Any]:
        """The counters as Triton's statistics extension has them, times in nanoseconds."""
        with self._lock:
            self._fold()
            latency, queue, compute = (self._histograms[name] for name in ("latency", "queue", "compute"))
            failed = sum(self._codes.values())
            last = int((time.time() - time.perf_counter() + self._recent[-1][0]) * 1e3) if self._recent else 0

            def took(count: int, seconds: float) -> dict[str, int]:
                return {"count": count, "ns": int(seconds * 1e9)}

            return {
                "last_inference": last,
                "inference_count": self._rows,
                "execution_count": self._passes,
                "inference_stats": {
                    "success": took(latency.count, latency.total),
                    "fail": took(failed, self._failed_seconds),
                    "queue": took(queue.count, queue.total),
                    "compute_input": took(0, 0.0),
                    "compute_infer": took(compute.count, compute.total),
                    "compute_output": took(0, 0.0),
                },
                "batch_stats": [],
            }

    def snapshot(self) -> dict[str, Any]:
        """The counters since the start, rates over the last minute, and percentiles over the last answered requests."""
        with self._lock:
            self._fold()
            recent, now = list(self._recent), time.perf_counter()
            statuses, batches = dict(self._statuses), dict(self._batches)
            last = [entry for entry in self._seconds if entry[0] >= now - WINDOW]
            rows = self._rows
        span = min(WINDOW, max(time.time() - self._since, 1.0))
        passes = [took for _, _, took in recent]
        return {
            "uptime_s": round(time.time() - self._since, 1),
            "requests": sum(statuses.values()),
            "by_status": {str(status): count for status, count in sorted(statuses.items())},
            "rows": rows,
            "requests_per_s": round(sum(entry[1] for entry in last) / span, 2),
            "rows_per_s": round(sum(entry[2] for entry in last) / span, 2),
            "latency_ms": percentiles([total for _, total, _ in recent]),
            "queue_ms": percentiles([took.queued for took in passes]),
            "compute_ms": percentiles([took.computed for took in passes]),
            "requests_by_batch_rows": {str(size): count for size, count in sorted(batches.items())},
        }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds, by the nearest rank; empty where there is nothing to take them over."""
    ordered = sorted(seconds)
    return {
        name: round(ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e3, 3)
        for name, share in _SHARES.items()
        if ordered
    }
