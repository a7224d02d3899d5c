"""Mutate whole HTTP requests, and send them to a real server: each ends in an answer of ours, or a closed connection.

    python -m tests.fuzz_http [--requests 5000] [--seconds 60] [--seed 0]

A request that is whole goes before every fourth mutant on the same connection: its answer has to be the right one,
whatever follows. None may be a 500, and a good request is answered after each.
"""

import argparse
import random
import socket
import tempfile
import time
from pathlib import Path

import torch

from tests.fuzz import mutated
from tests.real_server import Server, running

BODY = b'{"data": [[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]}'
WHOLE = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
ANSWER = b'{"predictions":[[45.0,45.0]]}'
REQUESTS = (
    WHOLE,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /score?top_k=2 HTTP/1.1\r\nHost: x\r\nAccept: application/json;q=0.5, */*\r\nConnection: close\r\n\r\n",
    b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2c\r\n" + BODY + b"\r\n0\r\n\r\n",
    b"POST /score HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nInference-Header-Content-Length: 44\r\n"
    b"Content-Length: 44\r\nx-request-id: a\r\n\r\n" + BODY,
    b"OPTIONS /score HTTP/1.0\r\n\r\n",
)
PATIENCE = 0.2  # seconds for an answer; a mutant may be the beginning of a request


def exchanged(server: Server, content: bytes) -> bytes:
    """What comes back, until nothing more does."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(content)
            while piece := connection.recv(65536):
                received += piece
        except OSError:
            pass
    return received


def run(server: Server, requests: int, seconds: float, seed: int) -> int:
    """How many were sent. Raises `AssertionError` naming the one that broke something."""
    deadline, number = time.monotonic() + seconds, 0
    while number < requests and time.monotonic() < deadline:
        chance = random.Random(f"{seed} http {number}")
        first = WHOLE if number % 4 == 0 else b""
        received = exchanged(server, first + mutated(chance.choice(REQUESTS), chance))
        what = f"request {number} of seed {seed}: {received[:500]!r}"
        assert not received or received.startswith(b"HTTP/1."), what
        assert b"HTTP/1.1 500" not in received, what
        assert not first or ANSWER in received, what
        number += 1
        if number % 20 == 0:
            assert server.request(body=BODY).body == ANSWER, what
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        torch.save({"linear.weight": torch.ones(2, 10), "linear.bias": torch.zeros(2)}, folder / "model" / "model.pt")
        with running(folder / "model", folder) as server:
            sent = run(server, options.requests, options.seconds, options.seed)
            assert "Traceback" not in server.log[server.log.index("ready for serving traffic") :]
    print(f"{sent:,} requests over HTTP: each was answered, refused or dropped")


if __name__ == "__main__":
    main()
