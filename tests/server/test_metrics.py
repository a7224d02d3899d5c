"""What is counted and logged of each request."""

import logging

import pytest

from score.server.metrics import Observer, percentiles
from tests.server.records import exchange


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


def test_a_clients_id_adds_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    found = exchange()
    found.request_id = "r1 status=200 error=none\x85é"
    with caplog.at_level("INFO", logger="azmlinfsrv.score"):
        Observer(log_requests=True).saw(found)
    (line,) = caplog.messages
    assert line.split()[:3] == [
        "request",
        f"id={ascii(found.request_id).replace(' ', chr(92) + 'x20')}",
        "status=200",
    ]
    assert line.isascii()
