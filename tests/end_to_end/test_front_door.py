"""What reaches the server over a socket: malformed, slow, large, too many; and what it is heard with."""

import gzip
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.real_server import Server, environment, free_port, refused, running

BODY = b'{"data": [[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]}'
POST = b"POST /score HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.save({"linear.weight": torch.ones(2, 10), "linear.bias": torch.zeros(2)}, folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(model, tmp_path_factory.mktemp("log")) as found:
        yield found


def sent(server: Server, content: bytes) -> bytes:
    """What comes back for these bytes, until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65536), b""))


MALFORMED = {
    "no HTTP": (b"hello\r\n\r\n", 400, "malformed_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400, "malformed_request"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "malformed_request"),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost: x\r\nX Y\r\n\r\n", 400, "malformed_request"),
    "a header over two lines": (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n", 400, "malformed_request"),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", 400, "malformed_request"),
    "a NUL": (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400, "malformed_request"),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400, "malformed_request"),
    "a length of 5,000 digits": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400, "malformed_request"),
    "a length below zero": (POST + b"Content-Length: -1\r\n\r\n", 400, "malformed_request"),
    "a length and chunks": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed_request",
    ),
    "an unknown coding": (POST + b"Transfer-Encoding: x\r\n\r\n", 400, "malformed_request"),
    "two codings": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "malformed_request"),
    "chunks in HTTP/1.0": (
        b"POST /score HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed_request",
    ),
    "a chunk that is no number": (CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n", 400, "malformed_request"),
    "a chunk below zero": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400, "malformed_request"),
    "a chunk of 5,000 digits": (CHUNKED + b"f" * 5000 + b"\r\nhello", 400, "malformed_request"),
    "a chunk that goes on": (CHUNKED + b"5\r\nhello and more\r\n0\r\n\r\n", 400, "malformed_request"),
    "a broken trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nX Y\r\n\r\n", 400, "malformed_request"),
    "a long line": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "head_too_large"),
    "a long header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431, "head_too_large"),
    "a head without end": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 3_000_000, 431, "head_too_large"),
    "many headers": (
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: a\r\n" % at for at in range(300)) + b"\r\n",
        431, "head_too_large",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_gets_an_answer(name: str, server: Server) -> None:
    content, status, code = MALFORMED[name]
    head, _, body = sent(server, content).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    error = json.loads(body)["error"]
    assert (error["code"], bool(error["request_id"])) == (code, True)
    assert server.post({"data": [[0.0] * 10]}).status == 200


def test_garbage_behind_a_request_does_not_change_its_answer(server: Server) -> None:
    for garbage in (b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\nX Y\r\n\r\n", CHUNKED + b"zz\r\n"):
        found = sent(server, POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + garbage)
        assert found.startswith(b"HTTP/1.1 200 OK")
        assert b'{"predictions":[[45.0,45.0]]}' in found


def test_a_body_that_ends_too_early_is_not_answered_as_if_it_were_whole(server: Server) -> None:
    before = server.request(method="GET").json["serving"]["rows"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n" + BODY)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(65536)
    assert server.request(method="GET").json["serving"]["rows"] == before


def _picture() -> bytes:
    image = pytest.importorskip("PIL.Image")
    written = io.BytesIO()
    image.new("RGB", (7000, 4700)).save(written, "PNG", compress_level=1)
    return written.getvalue()


def _npz() -> bytes:
    written = io.BytesIO()
    np.savez_compressed(written, x=np.arange(20_000_000, dtype=np.int32) % 7)
    return written.getvalue()


LARGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "numbers": (lambda: json.dumps({"data": np.random.rand(5000, 200).tolist()}).encode(), "application/json"),
    "integers": (
        lambda: json.dumps({"data": np.arange(3_000_000).reshape(-1, 2).tolist()}).encode(),
        "application/json",
    ),
    "records": (lambda: json.dumps({"instances": [{"x": 1.0}] * 1_000_000}).encode(), "application/json"),
    "texts": (lambda: json.dumps({"data": ["word"] * 1_500_000}).encode(), "application/json"),
    "a picture": (_picture, "image/png"),
    "an archive": (_npz, "application/x-npz"),
}


@pytest.mark.parametrize("name", LARGE)
def test_the_server_is_alive_while_a_large_body_is_decoded(name: str, server: Server) -> None:
    make, kind = LARGE[name]
    content = make()
    alive = 0
    for _ in range(20):  # some are decoded in less time than two small requests take
        alive += _answered_beside(server, content, kind)
        if alive >= 2:
            return
    raise AssertionError("nothing was answered while it was decoded")


def _answered_beside(server: Server, content: bytes, kind: str) -> int:
    """How many rounds of small requests are answered while a large one is."""
    done = threading.Event()
    answers: list[int] = []

    def ask() -> None:
        answers.append(server.request(body=content, Content_Type=kind).status)
        done.set()

    asking = threading.Thread(target=ask)
    asking.start()
    rounds = 0
    while not done.is_set():
        assert server.request("/", method="GET").status == 200
        assert server.post({"data": [[0.0] * 10]}).status == 200
        rounds += not done.is_set()
    asking.join()
    assert answers[0] in (400, 415)
    return rounds


def test_a_large_request_is_answered_as_a_small_one(server: Server) -> None:
    rows = np.random.default_rng(0).random((20_000, 10)).astype(np.float32)
    expected = rows.sum(1, keepdims=True).repeat(2, 1)
    text = json.dumps({"inputs": {"x": rows.tolist()}}).encode()
    name = next(iter(server.request(method="GET").json["signature"]["inputs"]))
    for body, headers in (
        (text.replace(b'"x"', b'"%s"' % name.encode()), {}),
        (gzip.compress(text.replace(b'"x"', b'"%s"' % name.encode())), {"Content_Encoding": "gzip"}),
        (json.dumps({"data": rows.tolist()}).encode(), {}),
    ):
        found = np.array(server.request(body=body, Content_Type="application/json", **headers).json["predictions"])
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_body_that_takes_too_much_to_decode_is_an_error(server: Server) -> None:
    found = server.request(body=b"[" * 5_000_000, Content_Type="application/json")
    assert (found.status, found.json["error"]["code"]) == (400, "invalid_json")
    bomb = gzip.compress(b"[" + b" " * 200_000_000)
    found = server.request(body=bomb, Content_Type="application/json", Content_Encoding="gzip")
    assert (found.status, found.json["error"]["code"]) == (413, "body_too_large")


def test_both_internet_protocols_and_any_case_of_headers(server: Server) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    connection = http.client.HTTPConnection("::1", server.port, timeout=30)
    connection.request("POST", "/score", BODY, {"CONTENT-TYPE": "APPLICATION/JSON"})
    assert json.loads(connection.getresponse().read()) == {"predictions": [[45.0, 45.0]]}


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_error_has_the_id_that_its_header_has(method: str, server: Server) -> None:
    found = server.request(body=b"{", method=method)
    assert found.json["error"]["request_id"] == found.headers["x-request-id"]


def test_a_unix_socket(model: Path, tmp_path: Path) -> None:
    place, port = tmp_path / "socket", free_port()
    binds = f"--bind unix:{place} -b 127.0.0.1:{port}"
    with running(model, tmp_path, port, GUNICORN_CMD_ARGS=binds) as server:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place))
            connection.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
            assert b"[[45.0,45.0]]" in b"".join(iter(lambda: connection.recv(65536), b""))
        assert server.post({"data": [[0.0] * 10]}).status == 200


def test_a_log_that_nobody_reads_stops_nothing(model: Path, tmp_path: Path) -> None:
    """Its pipe takes 64 kB; 2,000 requests write several times as much. And the end does not wait for it either."""
    score, port = Path(sys.executable).parent / "score", free_port()
    process = subprocess.Popen(
        [score, "serve", model, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    server = Server(port, tmp_path / "log", process)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                if server.request("/", method="GET").status == 200:
                    break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(2000):
            connection.request("POST", "/score", BODY)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"predictions":[[45.0,45.0]]}')
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout is not None
        time.sleep(4)  # the worker gives its log up by now; gunicorn's master needs a reader for its own lines
        process.stdout.read()
        assert process.wait(40) == 0
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None


def test_a_folder_for_temporary_files_that_is_not_there(model: Path, tmp_path: Path) -> None:
    status, log = refused(model, tmp_path, TMPDIR=str(tmp_path / "missing"))
    assert status == 3
    assert "ERROR no_temporary_folder" in log
    assert "Traceback" not in log[log.index("ERROR no_temporary_folder") :]
