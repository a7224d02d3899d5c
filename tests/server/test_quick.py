"""The quick way answers as the application does, whatever is sent; and what it promises of connections holds on it."""

import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from torch import nn

from score.errors import WeightsMismatch
from score.inference.pipeline import load_model
from score.server.app import Application
from score.server.body import held
from score.server.decoder import Decoder
from score.server.metrics import Observer
from score.server.models import Models
from score.server.service import Service
from score.server.startup import Unserved
from score.settings import Settings

Serve = Callable[..., SimpleNamespace]


def behind(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    """What stands in for azmlinfsrv's Flask application."""
    start("200 OK", [("content-type", "text/plain"), ("content-length", "5")])
    return [b"flask"]


VARIES = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=x-ms-run-fn-exec-ms: )[\d.]+|(?<=date: )[^\r]+")
LARGE = 30_000  # numbers for each that is given: more than the loop encodes


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def request(body: bytes, *headers: str, line: str = "POST /score HTTP/1.1") -> bytes:
    head = "".join(f"{each}\r\n" for each in (line, "Host: x", *headers, f"Content-Length: {len(body)}"))
    return head.encode("latin-1") + b"\r\n" + body


ROW = [0.5, -1.0, 2.0, 0.0, 1.0, 0.25, 3.0, -2.0, 1.5, 0.75]
REQUESTS = {
    "JSON": request(json.dumps({"data": [ROW]}).encode(), "Content-Type: application/json"),
    "no type": request(json.dumps({"instances": [ROW, ROW]}).encode()),
    "integers": request(json.dumps({"inputs": [[1] * 10]}).encode()),
    "a table": request(json.dumps({"dataframe_split": {"columns": list("abcdefghij"), "data": [ROW]}}).encode()),
    "npy": request(npy(np.ones((3, 10), np.float32)), "Content-Type: application/x-npy"),
    "npy for JSON": request(npy(np.ones((1, 10))), "Accept: application/json"),
    "protocol": request(
        json.dumps({"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP32", "data": ROW}], "id": "7"}).encode()
    ),
    "its own id": request(json.dumps({"data": [ROW]}).encode(), "X-Request-Id: mine", "X-Ms-Client-Request-Id: c"),
    "classes": request(json.dumps({"data": [ROW], "parameters": {"top_k": 1}}).encode()),
    "an id that goes through Flask": request(json.dumps({"data": [ROW]}).encode(), "X-Ms-Request-Id: theirs"),
    "a query": request(json.dumps({"data": [ROW]}).encode(), line="POST /score?top_k=1 HTTP/1.1"),
    "a model's name": request(json.dumps({"data": [ROW]}).encode(), "Azureml-Model-Name: another"),
    "another path": request(json.dumps({"data": [ROW]}).encode(), line="POST /score/model HTTP/1.1"),
    "wrong shape": request(json.dumps({"data": [[1.0, 2.0]]}).encode()),
    "ragged": request(json.dumps({"data": [[1.0], [1.0, 2.0]]}).encode()),
    "too large a number": request(json.dumps({"data": [[1e300] * 10]}).encode()),
    "text": request(json.dumps({"data": ["a text"]}).encode()),
    "long texts": request(json.dumps({"data": ["a text " * 3000]}).encode()),
    "no JSON": request(b'{"data": [[1, 2'),
    "empty": request(b""),
    "unknown": request(b"\x00\x01\x02", "Content-Type: application/octet-stream"),
    "not acceptable": request(json.dumps({"data": [ROW]}).encode(), "Accept: image/png"),
    "unknown encoding": request(b"abc", "Content-Encoding: br"),
    "a misspelt parameter": request(json.dumps({"data": [ROW], "parameters": {"topk": 1}}).encode()),
    "large": request(json.dumps({"data": [ROW] * 6000}).encode()),
}


class Held(nn.Module):
    """Answers when it is told to; notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.go, self.begun, self.given = threading.Event(), threading.Event(), list[float]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.begun.set()
        assert self.go.wait(20)
        self.given += x[:, 0].tolist()
        return x * self.scale


def served(found: Any, listening: Serve, *, quick: bool = True) -> SimpleNamespace:
    application = Application(Models.of_one(found), (), behind, Decoder(), hooked=False)
    if not quick:
        application.quick = None
    server = listening(application)
    return SimpleNamespace(port=server.port, gate=server.gate, application=application)


class Client:
    """One connection, by its bytes."""

    def __init__(self, server: SimpleNamespace) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.file = self.socket.makefile("rb")

    def tell(self, sent: bytes) -> None:
        self.socket.sendall(sent)

    def heard(self) -> tuple[bytes, bytes]:
        head = b""
        while (line := self.file.readline()) != b"\r\n":
            assert line, head
            head += line
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None, head
        return head, self.file.read(int(length[1]))

    def ask(self, sent: bytes) -> tuple[bytes, bytes]:
        self.tell(sent)
        return self.heard()

    def status(self, sent: bytes) -> bytes:
        return self.ask(sent)[0].split()[1]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    """One whose passes are held, behind a service; `service` is its attribute."""
    found = Held()
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "model.pt"))
    predictor = load_model(Settings.load(tmp_path / "model.pt", device="cpu", inputs="float32[N, 1]"))
    batcher = predictor.batcher
    monkeypatch.setattr(batcher._passes, "_forward", lambda inputs: found(next(iter(inputs.values()))).detach().numpy())
    found.service = Service.of(predictor)  # type: ignore[assignment]
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from models.simple_model import SimpleModel

    path = tmp_path_factory.mktemp("quick") / "model.pt"
    torch.manual_seed(2)
    torch.save(SimpleModel().state_dict(), path)
    yield Service.of(load_model(Settings.load(path, device="cpu")))


def normal(answer: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    return VARIES.sub(b"-", answer[0]), VARIES.sub(b"-", answer[1])


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_is_the_one_of_the_application(name: str, both: Service, listening: Serve) -> None:
    quick, slow = (Client(served(both, listening, quick=each)) for each in (True, False))
    wanted = normal(slow.ask(REQUESTS[name]))
    for _ in range(4):
        assert normal(quick.ask(REQUESTS[name])) == wanted
    assert held.bytes == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(names=some.lists(some.sampled_from(sorted(REQUESTS)), min_size=1, max_size=12))
def test_whatever_comes_after_whatever(names: list[str], both: Service, listening: Serve) -> None:
    quick, slow = (Client(served(both, listening, quick=each)) for each in (True, False))
    for name in [each for each in names for _ in range(3)]:
        assert normal(quick.ask(REQUESTS[name])) == normal(slow.ask(REQUESTS[name]))


def test_from_the_third_time_on_the_application_is_not_asked(both: Service, listening: Serve) -> None:
    server = served(both, listening)
    asked: list[str] = []
    endpoint = server.application._exact["/score"]

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await endpoint(scope, receive, send)

    server.application._exact["/score"] = counted
    client = Client(server)
    for _ in range(5):
        assert client.status(REQUESTS["JSON"]) == b"200"
    assert len(asked) == 2
    before = both.observer.snapshot()["requests"]
    assert client.status(REQUESTS["JSON"]) == b"200"
    assert both.observer.snapshot()["requests"] == before + 1


def test_a_model_that_could_not_be_loaded_says_why_to_each_request(listening: Serve) -> None:
    error = WeightsMismatch("it does not fit")
    found = Service(Unserved(error), Observer(log_requests=False))  # type: ignore[arg-type]
    client = Client(served(found, listening))
    for _ in range(4):
        head, body = client.ask(REQUESTS["JSON"])
        assert head.startswith(b"HTTP/1.1 503")
        assert json.loads(body)["error"]["code"] == "weights_mismatch"


def test_a_large_answer_is_encoded_elsewhere(tmp_path: Path, listening: Serve) -> None:
    class Repeats(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1, 30_000)

    torch.jit.script(Repeats()).save(str(tmp_path / "model.pt"))
    found = Service.of(load_model(Settings.load(tmp_path / "model.pt", device="cpu", inputs="float32[N, 3]")))
    client = Client(served(found, listening))
    sent = request(json.dumps({"data": [[1.0, 2.0, 3.0]]}).encode(), "Accept-Encoding: identity")
    for _ in range(4):
        head, body = client.ask(sent)
        assert head.startswith(b"HTTP/1.1 200")
        assert np.array(json.loads(body)["predictions"]).shape == (1, 3 * LARGE)


def learned(server: SimpleNamespace, sent: bytes) -> Client:
    """A connection after a head was sent twice: the next goes the quick way."""
    client = Client(server)
    for _ in range(2):
        client.ask(sent)
    return client


def one(value: float) -> bytes:
    return request(json.dumps({"data": [[value]]}).encode().ljust(30))


def test_a_request_whose_client_left_is_not_computed(
    model: Held, listening: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = served(model.service, listening)
    model.go.set()
    first, second = learned(server, one(0.0)), Client(server)
    model.go.clear()
    model.begun.clear()
    first.tell(one(1.0))
    assert model.begun.wait(20)
    second.tell(one(2.0))
    while not model.service.predictor.batcher.waiting:  # type: ignore[union-attr]
        threading.Event().wait(0.01)
    second.file.close()
    second.socket.close()
    threading.Event().wait(0.3)
    model.go.set()
    assert first.heard()[0].startswith(b"HTTP/1.1 200")
    assert first.status(one(3.0)) == b"200"
    assert model.given[-2:] == [1.0, 3.0]
    assert 2.0 not in model.given
    assert held.bytes == 0
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_what_is_sent_before_the_answer_has_its_turn(model: Held, listening: Serve) -> None:
    server = served(model.service, listening)
    model.go.set()
    client = learned(server, one(0.0))
    model.go.clear()
    model.begun.clear()
    client.tell(one(1.0))
    assert model.begun.wait(20)
    client.tell(one(2.0) + one(3.0))
    threading.Event().wait(0.1)
    model.go.set()
    assert [json.loads(client.heard()[1])["predictions"] for _ in range(3)] == [[[1.0]], [[2.0]], [[3.0]]]


def test_a_server_that_ends_answers_what_it_took_and_no_more(model: Held, listening: Serve) -> None:
    server = served(model.service, listening)
    model.go.set()
    busy, idle = learned(server, one(0.0)), learned(server, one(0.0))
    model.go.clear()
    model.begun.clear()
    busy.tell(one(1.0))
    assert model.begun.wait(20)
    server.application.draining = server.gate.draining = True
    for connection in list(server.gate.connections):
        connection.loop.call_soon_threadsafe(connection.shutdown)
    threading.Event().wait(0.1)
    head, _ = idle.ask(one(2.0))
    assert head.startswith(b"HTTP/1.1 503")
    assert b"connection: close" in head
    model.go.set()
    head, body = busy.heard()
    assert json.loads(body)["predictions"] == [[1.0]]
    assert b"connection: close" in head
    assert busy.file.read() == b""


def test_a_full_queue_says_when_to_come_again(model: Held, listening: Serve) -> None:
    server = served(model.service, listening)
    model.go.set()
    first, others = learned(server, one(0.0)), [Client(server) for _ in range(3)]
    model.go.clear()
    model.begun.clear()
    batcher = model.service.predictor.batcher  # type: ignore[union-attr]
    object.__setattr__(batcher.limits, "requests", 1)
    first.tell(one(1.0))
    assert model.begun.wait(20)
    others[0].tell(one(2.0))
    while not batcher.waiting:
        threading.Event().wait(0.01)
    head, body = others[1].ask(one(3.0))
    assert head.startswith(b"HTTP/1.1 429")
    assert b"retry-after: " in head
    assert json.loads(body)["error"]["code"] == "queue_full"
    model.go.set()
    for client in (first, others[0]):
        assert client.heard()[0].startswith(b"HTTP/1.1 200")
    assert held.bytes == 0


def test_a_bug_in_one_answer_is_the_error_of_that_one(
    both: Service, listening: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = served(both, listening)
    clients = [learned(server, REQUESTS["JSON"]) for _ in range(2)]
    encode, made = Service.encode, list[int]()

    def broken(self: Service, *given: Any, **named: Any) -> Any:
        made.append(1)
        if len(made) == 1:
            raise ValueError("a bug")
        return encode(self, *given, **named)

    monkeypatch.setattr(Service, "encode", broken)
    head, body = clients[0].ask(REQUESTS["JSON"])
    assert head.startswith(b"HTTP/1.1 500")
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert clients[1].status(REQUESTS["JSON"]) == clients[0].status(REQUESTS["JSON"]) == b"200"
