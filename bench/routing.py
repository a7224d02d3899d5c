"""What the routes of other protocols cost a request to `/score`, in one process, without sockets.

    python bench/routing.py [--requests 4000] [--rounds 15]

Two applications around the same loaded model: one with `/score` alone, and one with all routes. Each round asks both in
turns, for predictions of one row as JSON, 16 at a time, and takes the CPU time of the whole process. The figure is the
median over the rounds of the ratio of the two, since a machine whose speed drifts changes both.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BODY = b'{"data": [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]]}'
HEAD = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
AT_A_TIME = 16


async def ask(app: Any, path: str) -> None:
    """One request, as the server hands it over."""
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": HEAD, "http_version": "1.1", "root_path": "", "scheme": "http",
    }  # fmt: skip
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    if statuses != [200]:
        raise SystemExit(f"{path} was answered with {statuses}")


async def seconds(app: Any, path: str, requests: int) -> float:
    """CPU seconds for one request."""
    started = time.process_time()
    for _ in range(requests // AT_A_TIME):
        await asyncio.gather(*(ask(app, path) for _ in range(AT_A_TIME)))
    return (time.process_time() - started) / (requests // AT_A_TIME * AT_A_TIME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    import torch
    from torch import nn

    from score.inference.pipeline import load_model
    from score.server.app import Application
    from score.server.decoder import Decoder
    from score.server.models import Models
    from score.server.routes import every_row
    from score.server.service import Service
    from score.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        torch.save(nn.Sequential(nn.Linear(10, 2)), Path(folder) / "model.pt")
        service = Service.of(load_model(Settings.load(Path(folder), log_requests=False)))
    models = Models.of_one(service)
    alone = Application(models, (), None, Decoder(), hooked=False)
    every = Application(models, every_row(), None, Decoder(), hooked=False)
    ways = {
        "/score alone": (alone, "/score"),
        "all routes": (every, "/score"),
        "all routes, /score/{model}": (every, f"/score/{service.name}"),
    }

    async def measured() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {way: [] for way in ways}
        for app, path in ways.values():
            await seconds(app, path, options.requests)
        for at in range(options.rounds):
            order = list(ways) if at % 2 else list(reversed(ways))
            for way in order:
                found[way].append(await seconds(*ways[way], options.requests))
        return found

    found = asyncio.run(measured())
    first = found["/score alone"]
    print("| | CPU us a request | ratio |\n|---|--:|--:|")
    for way, each in found.items():
        ratio = statistics.median(one / other for one, other in zip(each, first, strict=True))
        print(f"| {way} | {statistics.median(each) * 1e6:.1f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
