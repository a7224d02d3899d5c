"""Thousands of distinct requests over 64 connections, some pipelined, some as npy, some large: each gets its own answer
in its own place."""

import asyncio
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from tests.real_server import Server, running

CONNECTIONS = 64


@pytest.fixture(scope="module")
def adds_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("adds-one")
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
        layer.bias.fill_(1)
    torch.save(nn.Sequential(layer), folder / "model.pt")
    with running(folder, folder, SCORE_LOG_REQUESTS="false") as server:
        yield server


def request(tag: int) -> bytes:
    """A request whose numbers say which it is: as JSON, as npy, with many rows; with an id of its own."""
    rows = 2000 if tag % 97 == 0 else 1 + tag % 3
    values = np.full((rows, 2), tag, np.float32)
    if tag % 5 == 0:
        file = io.BytesIO()
        np.save(file, values)
        body, kind = file.getvalue(), "application/x-npy"
    else:
        body, kind = json.dumps({"data": values.tolist()}).encode(), "application/json"
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nx-request-id: r{tag}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[str, np.ndarray]:
    """The next answer on a connection: its request's id, and its numbers."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK", head
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    found = np.load(io.BytesIO(body)) if headers["content-type"] == "application/x-npy" else json.loads(body)
    return headers["x-request-id"], np.asarray(found if isinstance(found, np.ndarray) else found["predictions"])


async def client(port: int, tags: range) -> int:
    """Send all requests of a connection, up to three before their answers are read; how many were right."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    right = 0
    waiting = list(tags)
    while waiting:
        ahead, waiting = waiting[: 1 + waiting[0] % 3], waiting[1 + waiting[0] % 3 :]
        writer.write(b"".join(map(request, ahead)))
        for tag in ahead:
            identifier, numbers = await asyncio.wait_for(answer(reader), 60)
            right += identifier == f"r{tag}" and bool((numbers == tag + 1).all()) and numbers.shape[1] == 2
    writer.close()
    return right


async def all_clients(port: int, each: int) -> int:
    ranges = (range(1 + at * each, 1 + (at + 1) * each) for at in range(CONNECTIONS))
    return sum(await asyncio.gather(*(client(port, tags) for tags in ranges)))


@pytest.mark.parametrize(
    "total", [pytest.param(1_920, id="few"), pytest.param(20_032, id="many", marks=pytest.mark.slow)]
)
def test_each_request_gets_its_own_answer(total: int, adds_one: Server) -> None:
    assert asyncio.run(all_clients(adds_one.port, total // CONNECTIONS)) == total
    by_status = adds_one.request(method="GET").json["serving"]["by_status"]
    assert by_status.keys() == {"200"}
