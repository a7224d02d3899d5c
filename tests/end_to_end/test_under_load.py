"""The real server under load, told to stop, and killed."""

import http.client
import json
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.real_server import SLOW, Server, running, until


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(SLOW)
    torch.save({"one": torch.ones(1)}, folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def shared(slow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it as it was."""
    with serving(slow, tmp_path_factory.mktemp("shared")) as server:
        yield server


@contextmanager
def serving(slow: Path, tmp_path: Path, **settings: str) -> Iterator[Server]:
    (tmp_path / "log").mkdir()
    given = {"SCORE_ARCHITECTURE": f"{slow}/slow.py:Slow", "SCORE_TRUST_CODE": "true", "SCORE_INPUTS": "float32[N, 2]"}
    with running(slow, tmp_path / "log", **given, **settings) as server:
        yield server


def ask(server: Server, seconds: float, tag: float) -> Any:
    return server.post({"data": [[seconds, tag]]})


def worker_of(server: Server) -> int:
    return int(psutil.Process(server.process.pid).children()[0].pid)


def serving_part(server: Server) -> Any:
    return server.request(method="GET").json["serving"]


def test_sixty_four_threads_each_get_their_own_answer(shared: Server) -> None:
    before = serving_part(shared)["requests"]
    wrong: list[Any] = []

    def client(thread: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=60)
        for turn in range(15):
            tag = thread * 100 + turn
            bad = (thread + turn) % 10 == 0
            body = json.dumps({"data": [[0.0, -tag if bad and tag else tag]] * (1 + turn % 3)})
            connection.request("POST", "/score", body, {"x-request-id": f"t{tag}"})
            answer = connection.getresponse()
            found = json.loads(answer.read())
            if bad and tag:
                fine = answer.status == 422 and found["error"]["request_id"] == f"t{tag}"
            else:
                fine = answer.status == 200 and found == {"predictions": [[1.0, tag + 1.0]] * (1 + turn % 3)}
            if not fine or answer.headers["x-request-id"] != f"t{tag}":
                wrong.append((tag, answer.status, found))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    found = serving_part(shared)
    assert found["requests"] - before == 64 * 15
    assert any(int(rows) >= 4 for rows in found["requests_by_batch_rows"]), found
    assert found["latency_ms"]["p99"] >= found["latency_ms"]["p50"] > 0
    until(lambda: f"request id=t{6301} status=200" in shared.log)


def test_a_full_queue_is_429_and_a_late_request_504(slow: Path, tmp_path: Path) -> None:
    settings = {"SCORE_MAX_QUEUE": "2", "SCORING_TIMEOUT_MS": "1000", "SCORE_MAX_BATCH": "1"}
    with serving(slow, tmp_path, **settings) as server, ThreadPoolExecutor(8) as pool:
        busy = pool.submit(ask, server, 3.0, 1)
        until(lambda: serving_part(server)["running_rows"] == 1)
        waiting = [pool.submit(ask, server, 0.0, tag) for tag in (2, 3)]
        until(lambda: serving_part(server)["waiting"] == 2)
        refused = ask(server, 0.0, 4)
        assert (refused.status, refused.json["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["Retry-After"]) >= 1
        for late in waiting:
            answer = late.result()
            assert (answer.status, answer.json["error"]["code"]) == (504, "deadline_passed")
            assert not busy.done(), "the answer came only when the model was free again"
        assert busy.result().json == {"predictions": [[4.0, 2.0]]}
        assert serving_part(server)["rows"] == 1  # the late ones were not run


def test_the_server_is_alive_while_the_model_is_busy(shared: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(ask, shared, 1.5, 1)
        until(lambda: serving_part(shared)["running_rows"] == 1)
        assert shared.request("/", method="GET").status == 200
        assert not busy.done()


def test_sigterm_finishes_what_is_in_flight(slow: Path, tmp_path: Path) -> None:
    with serving(slow, tmp_path, SCORE_MAX_BATCH="1") as server, ThreadPoolExecutor(8) as pool:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        kept.request("GET", "/")
        kept.getresponse().read()
        half = socket.create_connection(("127.0.0.1", server.port))  # a request of which only a part has come
        body = b'{"data": [[0.0, 7.0]]}'
        half.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:5])
        inflight = [pool.submit(ask, server, 0.7, tag) for tag in range(3)]
        until(lambda: serving_part(server)["waiting"] == 2)
        os.kill(server.process.pid, signal.SIGTERM)
        time.sleep(0.3)
        kept.request("POST", "/score", b'{"data": [[0.0, 1.0]]}')  # a new request, on a connection from before
        answer = kept.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (503, "draining")
        assert answer.headers["Retry-After"]
        assert answer.headers["Connection"] == "close"
        half.sendall(body[5:])
        assert b'{"predictions":[[1.0,8.0]]}' in half.recv(65536) + half.recv(65536)
        assert [found.result().json for found in inflight] == [
            {"predictions": [[pytest.approx(1.7), tag + 1.0]]} for tag in range(3)
        ]
        assert server.process.wait(20) == 0


def test_a_killed_worker_comes_back(slow: Path, tmp_path: Path) -> None:
    with serving(slow, tmp_path) as server:
        seen: Counter[Any] = Counter()
        stop = threading.Event()

        def client(tag: int) -> None:
            while not stop.is_set():
                try:
                    answer = ask(server, 0.01, tag)
                except OSError:  # a connection that broke: to be retried
                    seen["broken"] += 1
                    time.sleep(0.05)
                else:
                    fine = answer.status == 200 and answer.json == {"predictions": [[pytest.approx(1.01), tag + 1.0]]}
                    seen["answered" if fine else answer.status] += 1

        threads = [threading.Thread(target=client, args=(tag,)) for tag in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: seen["answered"] > 20)
        first = worker_of(server)
        os.kill(first, signal.SIGKILL)
        until(lambda: "Worker (pid" in server.log, 30)
        before = seen["answered"]
        until(lambda: seen["answered"] > before + 20, 60)
        stop.set()
        for thread in threads:
            thread.join()
        assert worker_of(server) != first
        assert set(seen) <= {"answered", "broken"}, seen
        assert seen["broken"] >= 1


def test_slow_and_silent_clients_hold_nobody_up(shared: Server) -> None:
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    held = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(300)]
    for at, connection in enumerate(held):
        connection.sendall(head[: at % len(head)] if at % 3 else head + b'{"data"')
    assert ask(shared, 0.0, 5).json == {"predictions": [[1.0, 6.0]]}
    for connection in held:
        connection.close()
    assert ask(shared, 0.0, 6).status == 200


def test_a_client_that_leaves_costs_nothing(shared: Server) -> None:
    before = len(shared.log)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", shared.port)) as connection:
            body = b'{"data": [[0.05, 1.0]]}'
            connection.sendall(b"POST /score HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert ask(shared, 0.0, 6).status == 200
    assert "Traceback" not in shared.log[before:]


def test_pipelined_requests_are_answered_in_order(shared: Server) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as connection:
        for tag in range(5):
            body = b'{"data": [[0.0, %d]]}' % tag
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        connection.settimeout(10)
        received = b""
        while received.count(b"predictions") < 5:
            received += connection.recv(65536)
        found = [float(part.partition(b"]")[0]) for part in received.split(b"[[1.0,")[1:]]
        assert found == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_memory_for_bodies_is_bounded(slow: Path, tmp_path: Path) -> None:
    with serving(slow, tmp_path, SCORE_MAX_HELD_MB="1") as server:
        head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
        held = socket.create_connection(("127.0.0.1", server.port))
        held.sendall(head + b"[" * 900_000)  # and no more, for now
        time.sleep(0.3)  # it is there before the other
        refused = socket.create_connection(("127.0.0.1", server.port))
        refused.sendall(head + b"[" * 900_000)
        assert b" 429 " in refused.recv(65536).partition(b"\r\n")[0]
        assert ask(server, 0.0, 1).status == 200
        held.close()
        refused.close()
        until(lambda: server.request(body=b'{"data": [[0.0, 1.0]' + b" " * 900_000 + b"]}").status == 200)


def test_many_rows_in_one_request(shared: Server) -> None:
    values = np.stack([np.zeros(1000), np.arange(1000)], axis=1)  # more than a batch may have
    found = np.array(shared.post({"data": values.tolist()}).json["predictions"])
    np.testing.assert_array_equal(found, values + 1)


def test_running_out_of_file_descriptors_passes(slow: Path, tmp_path: Path) -> None:
    with serving(slow, tmp_path) as server:
        worker = worker_of(server)
        used = len(list(Path(f"/proc/{worker}/fd").iterdir()))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 10, used + 10))
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
        time.sleep(1)
        before = sum(map(int, Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[11:13]))
        time.sleep(1)
        after = sum(map(int, Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[11:13]))
        assert after - before < os.sysconf("SC_CLK_TCK") / 2, "it spins on a listener that it can't accept from"
        for connection in held:
            connection.close()
        until(lambda: _is_answered(server))  # a connection may be dropped as long as there are no descriptors


def _is_answered(server: Server) -> bool:
    try:
        return bool(ask(server, 0.0, 1).status == 200)
    except OSError:
        return False


def test_silent_connections_keep_nobody_out(shared: Server) -> None:
    """1,100 of them, where 1,000 connections may be: those that never sent a byte go first."""
    busy = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=30)
    busy.request("GET", "/")
    busy.getresponse().read()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(1100)]
    try:
        for tag in range(5):
            assert ask(shared, 0.0, tag).json == {"predictions": [[1.0, tag + 1.0]]}
        busy.request("GET", "/")  # it had sent something: it stays
        assert busy.getresponse().status == 200
    finally:
        for connection in held:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_gunicorns_own_threaded_worker_works_too(slow: Path, tmp_path: Path) -> None:
    settings = {"GUNICORN_CMD_ARGS": "--worker-class gthread --threads 16"}
    with serving(slow, tmp_path, **settings) as server, ThreadPoolExecutor(16) as pool:
        assert "Using worker: gthread" in server.log
        found = list(pool.map(lambda tag: ask(server, 0.01, tag).json, range(200)))
        assert found == [{"predictions": [[pytest.approx(1.01), tag + 1.0]]} for tag in range(200)]
        assert any(int(rows) >= 2 for rows in serving_part(server)["requests_by_batch_rows"])


@pytest.mark.slow
def test_two_workers_share_the_port(slow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "score.py").write_text("raise SystemExit('the wrong score')\n")
    monkeypatch.chdir(tmp_path)  # what stands there must not be taken for the package
    with serving(slow, tmp_path, WORKER_COUNT="2") as server, ThreadPoolExecutor(8) as pool:
        until(lambda: server.log.count("ready for serving traffic") == 2)
        assert all(pool.map(lambda tag: ask(server, 0.05, tag).status == 200, range(100)))
        assert len({serving_part(server)["worker"] for _ in range(40)}) == 2


def test_expect_100_continue(shared: Server) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as connection:
        body = b'{"data": [[0.0, 1.0]]}'
        head = b"POST /score HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head)
        connection.settimeout(10)
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(body)
        assert b" 200 " in connection.recv(65536)


def test_chunked_bodies(shared: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=30)
    parts = [b'{"data": ', b"[[0.0, ", b"4.0]]}"]
    connection.request("POST", "/score", iter(parts), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert json.loads(connection.getresponse().read()) == {"predictions": [[1.0, 5.0]]}
