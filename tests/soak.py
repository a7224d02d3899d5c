"""Twice the load that the server can carry, for minutes: `python -m tests.soak --seconds 300`.

A model that takes a fixed time a pass bounds what can be carried; requests are sent at twice that rate, on a schedule,
whether or not earlier ones are answered. Among them are malformed, wrong, oversized and rejected ones, clients that
send a byte now and then, and connections that are dropped half-way. It fails unless

- every answer is one that its request may have: no 5xx but 503 and 504, and 200 only with that very request's numbers;
- every request that was sent whole is answered, once;
- the worker's memory at the end is within 5 % of what it was after warming up;
- the server ends cleanly on SIGTERM.
"""

import argparse
import asyncio
import gzip
import io
import itertools
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch

from tests.real_server import running

PASS_SECONDS, MAX_BATCH = 0.02, 4
CAPACITY = MAX_BATCH / PASS_SECONDS  # rows a second
CLIENTS = 256
SETTINGS = {
    "SCORE_TRUST_CODE": "true", "SCORE_INPUTS": "float32[N, 2]", "SCORE_MAX_BATCH": str(MAX_BATCH),
    "SCORE_MAX_QUEUE": "128", "SCORING_TIMEOUT_MS": "500", "SCORE_MAX_BODY_MB": "0.1",
}  # fmt: skip

MODEL = f"""
import time
import torch
from torch import nn


class Soaked(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x):
        time.sleep({PASS_SECONDS})
        if (x[:, 1] < 0).any():
            raise ValueError("negative")
        return x + self.one
"""

BUSY = {429, 503, 504}
# What is sent, how often, and what may come back.
KINDS = {
    "json": (60, {200} | BUSY),
    "npy": (15, {200} | BUSY),
    "gzip": (5, {200} | BUSY),
    "malformed": (5, {400}),
    "wrong shape": (5, {400}),
    "rejected": (3, {422} | BUSY),
    "oversized": (1, {413}),
    "slow": (3, {200} | BUSY),
    "dropped": (3, set()),
}


@dataclass
class Seen:
    """What has come back so far."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    sent: int = 0


def body_of(kind: str, tag: float) -> tuple[bytes, dict[str, str]]:
    """A request's body and headers. `tag` says whose it is."""
    row = [float(tag), float(tag % 1000)]
    if kind == "npy":
        file = io.BytesIO()
        np.save(file, np.array([row], np.float32))
        return file.getvalue(), {"Content-Type": "application/x-npy"}
    if kind == "malformed":
        return b'{"data": [[1.0, 2.0]', {}
    if kind == "wrong shape":
        return b'{"data": [[1.0, 2.0, 3.0]]}', {}
    if kind == "oversized":
        return b" " * 150_000, {}
    plain = json.dumps({"data": [[row[0], -1.0 if kind == "rejected" else row[1]]]}).encode()
    if kind == "gzip":
        return gzip.compress(plain), {"Content-Encoding": "gzip"}
    return plain, {}


def is_right(kind: str, tag: float, body: bytes) -> bool:
    wanted = np.array([[float(tag) + 1, float(tag % 1000) + 1]], np.float32)
    found = np.load(io.BytesIO(body)) if kind == "npy" else np.array(json.loads(body)["predictions"], np.float32)
    return bool(np.array_equal(found, wanted))


class Client:
    """One connection at a time, kept as long as the server keeps it."""

    def __init__(self, port: int, seen: Seen) -> None:
        self.port, self.seen = port, seen
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, kind: str, tag: float) -> None:
        """Send a request of a kind, and hold its answer against what it may be."""
        self.seen.sent += 1
        try:
            status, body = await asyncio.wait_for(self._exchange(kind, tag), 60)
        except (OSError, asyncio.IncompleteReadError) as error:
            if kind not in ("oversized", "dropped"):  # a server may close on a body it does not want to read
                self.seen.wrong.append(f"{kind}: the connection broke ({error})")
            self._forget()
            return
        except TimeoutError:
            self.seen.wrong.append(f"{kind}: no answer in 60 s")
            self._forget()
            return
        if status is None:
            return
        self.seen.answers[kind, status] += 1
        if status not in KINDS[kind][1]:
            self.seen.wrong.append(f"{kind}: {status} {body[:200]!r}")
        elif status == 200 and not is_right(kind, tag, body):
            self.seen.wrong.append(f"{kind}: not its own answer: {body[:200]!r}")

    async def _exchange(self, kind: str, tag: float) -> tuple[int | None, bytes]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        body, headers = body_of(kind, tag)
        lines = [f"{name}: {value}\r\n" for name, value in {**headers, "x-request-id": str(tag)}.items()]
        head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n".encode()
        if kind == "slow":
            for start in range(0, len(body), 8):
                writer.write((head if not start else b"") + body[start : start + 8])
                await writer.drain()
                await asyncio.sleep(0.3)
        elif kind == "dropped":
            whole = head + body
            writer.write(whole[: random.randrange(1, len(whole) + 1)])
            await writer.drain()
            self._forget()
            return None, b""
        else:
            writer.write(head + body)
            await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(re.search(r"content-length: (\d+)", answer, re.I)[1])  # type: ignore[index]
        content = await reader.readexactly(length)
        if f"x-request-id: {tag}\r\n" not in answer:
            self.seen.wrong.append(f"{kind}: an answer to another request")
        if "connection: close" in answer.lower():
            self._forget()
        return int(answer.split(" ", 2)[1]), content

    def _forget(self) -> None:
        if self.streams is not None:
            self.streams[1].transport.abort()
            self.streams = None


async def flood(port: int, seconds: float, seen: Seen) -> None:
    """Send requests on schedule from many clients."""
    kinds, weights = list(KINDS), [weight for weight, _ in KINDS.values()]
    rows = sum(weight for weight, statuses in KINDS.values() if statuses & {200, 422}) / sum(weights)
    rate = 2 * CAPACITY / rows  # only these reach the model
    start, tags = time.monotonic(), itertools.count(1)

    async def client() -> None:
        connection = Client(port, seen)
        while True:
            tag = next(tags)
            due = start + tag / rate
            if due > start + seconds:
                return
            await asyncio.sleep(due - time.monotonic())
            await connection.send(random.choices(kinds, weights)[0], tag)

    await asyncio.gather(*[client() for _ in range(CLIENTS)])


def private_kb(pid: int) -> int:
    """What a process has for itself, in kB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(found) for found in re.findall(r"^Private_\w+:\s+(\d+)", rollup, re.M))


def soak(seconds: float) -> bool:
    """One run; says on standard output what happened."""
    seen, memory = Seen(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        (folder / "soaked.py").write_text(MODEL)
        torch.save({"one": torch.ones(1)}, folder / "model" / "model.pt")
        with running(folder / "model", folder, SCORE_ARCHITECTURE=f"{folder}/soaked.py:Soaked", **SETTINGS) as server:
            worker = psutil.Process(server.process.pid).children()[0].pid

            async def run() -> None:
                async def watch() -> None:
                    while True:
                        memory.append(private_kb(worker))
                        await asyncio.sleep(seconds / 100)

                watching = asyncio.create_task(watch())
                await flood(server.port, seconds, seen)
                watching.cancel()

            asyncio.run(run())
            serving = server.request(method="GET").json["serving"]
            server.process.terminate()
            ended = server.process.wait(60)
            log = server.log
    early, late = (sorted(part)[len(part) // 2] for part in (memory[20:40], memory[-20:]))
    growth = late / early - 1
    total = sum(seen.answers.values())
    print(f"{seen.sent} requests in {seconds:g} s, {total} answers:")
    for (kind, status), count in sorted(seen.answers.items()):
        print(f"  {kind:<12} {status}  {count}")
    print(f"worker's own memory: {early / 1e3:.1f} MB early, {late / 1e3:.1f} MB late ({growth:+.1%})")
    print(f"queue {serving['queue_ms']}, compute {serving['compute_ms']} (ms)")
    problems = seen.wrong[:20]
    busy = sum(count for (_, status), count in seen.answers.items() if status in BUSY)
    if not busy:
        problems.append("nothing was refused: that was not twice the load")
    if growth > 0.05:
        problems.append(f"memory grew by {growth:.1%}")
    if ended != 0:
        problems.append(f"the server ended with {ended}")
    problems += re.findall(r"a bug in the server|a connection failed|a socket failed", log)
    for problem in problems:
        print(f"PROBLEM {problem}")
    return not problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    random.seed(int(os.environ.get("SEED", "0")))
    sys.exit(0 if soak(parser.parse_args().seconds) else 1)
