"""The ASGI application, called as a server would call it; and answers that come in pieces, over HTTP."""

import asyncio
import http.client
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from score.server import answer, app
from score.server.answer import Answer
from score.server.app import Application
from score.server.decoder import Decoder
from score.server.models import Models
from score.server.sending import respond
from score.server.service import Service


def behind(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    """What stands in for azmlinfsrv's Flask application."""
    start("200 OK", [("content-type", "text/plain")])
    return [f"flask {environ['PATH_INFO']}".encode()]


def application(service: Service, hooked: bool = False) -> Application:
    return Application(Models.of_one(service), (), behind, Decoder(), hooked=hooked)


async def called(found: Application, path: str = "/score", pieces: tuple[bytes, ...] = (b"",), **head: Any) -> Any:
    """One request: status, headers, body."""
    method, headers = head.get("method", "POST"), head.get("headers", {})
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": head.get("query", b""),
        "headers": raw,
        "http_version": "1.1",
        "scheme": "http",
        "server": ("x", 1),
        "client": ("y", 2),
        "root_path": "",
    }
    waiting = [{"type": "http.request", "body": p, "more_body": at + 1 < len(pieces)} for at, p in enumerate(pieces)]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await found(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return SimpleNamespace(
        status=sent[0]["status"], headers={k.decode(): v.decode() for k, v in sent[0]["headers"]}, body=body
    )


def test_a_prediction_in_pieces_is_that_of_the_whole(service: Service) -> None:
    body = json.dumps({"data": [[1.0] * 10] * 2}).encode()
    wanted = service.predictor(np.ones((2, 10))).tolist()

    async def run() -> list[Any]:
        found = application(service)
        return [await called(found, pieces=pieces) for pieces in ((body,), (body[:7], body[7:9], body[9:]))]

    for each in asyncio.run(run()):
        assert (each.status, json.loads(each.body)) == (200, {"predictions": pytest.approx(np.array(wanted))})
        assert each.headers["x-request-id"]


def test_requests_of_one_turn_run_together(service: Service) -> None:
    async def run() -> list[Any]:
        found = application(service)
        bodies = [json.dumps({"data": [[float(number)] * 10]}).encode() for number in range(40)]
        return await asyncio.gather(*(called(found, pieces=(body,)) for body in bodies))

    answers = asyncio.run(run())
    wanted = service.predictor(np.arange(40.0)[:, None] * np.ones(10))
    for number, each in enumerate(answers):  # each its own
        np.testing.assert_allclose(json.loads(each.body)["predictions"], wanted[number : number + 1], rtol=1e-5)
    assert max(map(int, service.card()["serving"]["requests_by_batch_rows"])) > 1


def test_what_is_not_ours_goes_to_flask(service: Service) -> None:
    async def run() -> list[Any]:
        found, hooked = application(service), application(service, hooked=True)
        return [
            await called(found, "/", method="GET"),
            await called(found, "/score", headers={"traceid": "t"}),
            await called(hooked, "/score"),
        ]

    assert [each.body for each in asyncio.run(run())] == [b"flask /", b"flask /score", b"flask /score"]


@pytest.mark.parametrize(
    ("pieces", "head", "status", "code"),
    [
        ((b"",), {}, 400, "empty_body"),
        ((b"{",), {}, 400, "invalid_json"),
        ((b'{"data": [[1]]}',), {}, 400, "wrong_shape"),
        ((b"x",), {"headers": {"content-type": "video/mp4"}}, 415, "unsupported_media_type"),
        ((b'{"data": [[1]]}',), {"query": b"topk=1"}, 400, "unknown_parameter"),
        ((b"",), {"method": "PUT"}, 405, "method_not_allowed"),
    ],
)
def test_errors(service: Service, pieces: tuple[bytes, ...], head: dict[str, Any], status: int, code: str) -> None:
    found = asyncio.run(called(application(service), pieces=pieces, **head))
    assert (found.status, json.loads(found.body)["error"]["code"]) == (status, code)
    assert json.loads(found.body)["error"]["request_id"] == found.headers["x-request-id"]


def test_draining_refuses_what_begins(service: Service) -> None:
    found = application(service)
    found.draining = True
    answered = asyncio.run(called(found))
    assert (answered.status, answered.headers["retry-after"]) == (503, "1")


def test_a_client_that_leaves_in_its_body(service: Service) -> None:
    async def run() -> None:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b"", "headers": []}
        await application(service)(scope, receive, send)
        assert sent[0]["status"] == 499  # nobody sees it but the log

    asyncio.run(run())


def test_large_bodies_and_answers_are_made_elsewhere(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SMALL", 16)
    threads: set[str] = set()
    encode = Service.encode

    def noting(self: Service, *given: Any) -> Answer:
        threads.add(threading.current_thread().name)
        return encode(self, *given)

    monkeypatch.setattr(Service, "encode", noting)
    body = json.dumps({"data": [[1.0] * 10] * 50}).encode()
    assert asyncio.run(called(application(service), pieces=(body,))).status == 200
    assert all(name.startswith("decode") for name in threads)


class Streaming:
    """A made-up model that says one word after another, each when it is let."""

    def __init__(self) -> None:
        self.go, self.said, self.closed = threading.Semaphore(0), 0, False

    async def words(self) -> AsyncIterator[dict[str, str]]:
        loop = asyncio.get_running_loop()
        try:
            for word in ("the", "weights", "are", "never", "unavailable"):
                await loop.run_in_executor(None, self.go.acquire)
                self.said += 1
                yield {"token": word}
        finally:
            self.closed = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        found = answer.of_events(self.words())
        await respond(send, found, {**found.headers, "x-request-id": "r1"}, receive)


def test_events_arrive_one_by_one(listening: Callable[..., SimpleNamespace]) -> None:
    model = Streaming()
    connection = http.client.HTTPConnection("127.0.0.1", listening(model).port, timeout=20)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: (connection.request("GET", "/"), connection.getresponse())[1])
        model.go.release()
        found = asked.result()
        assert found.headers["content-type"] == "text/event-stream"
        assert found.headers["x-request-id"] == "r1"
        assert found.headers["transfer-encoding"] == "chunked"
        assert found.readline() == b'data: {"token":"the"}\n'  # while the model has not said the next
        assert model.said == 1
        for _ in range(4):
            model.go.release()
        rest = found.read().decode()
    assert rest.split("\n\n")[:-1][-1] == 'data: {"token":"unavailable"}'
    assert model.closed
    connection.request("GET", "/")  # the connection is good for another
    for _ in range(5):
        model.go.release()
    assert connection.getresponse().read().count(b"data: ") == 5


def test_a_client_that_leaves_ends_the_stream(listening: Callable[..., SimpleNamespace]) -> None:
    model = Streaming()
    connection = http.client.HTTPConnection("127.0.0.1", listening(model).port, timeout=20)
    model.go.release()
    connection.request("GET", "/")
    found = connection.getresponse()
    found.readline()
    found.close()
    connection.close()
    for _ in range(200):
        model.go.release()
        if model.closed:
            break
        threading.Event().wait(0.05)
    assert model.closed
    assert model.said < 5
