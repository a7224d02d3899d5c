"""What the tests of the server's parts share: a service with a small model, and uvicorn in a thread of this process."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import uvicorn

from models.simple_model import SimpleModel
from score.inference.pipeline import load_model
from score.server.gate import Gate
from score.server.protocol import HttpProtocol
from score.server.service import Service
from score.settings import Settings


@pytest.fixture
def service(tmp_path: Path) -> Service:
    torch.manual_seed(2)
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    return Service.of(load_model(Settings.load(tmp_path / "model.pt", device="cpu")))


@pytest.fixture
def listening() -> Iterator[Callable[..., SimpleNamespace]]:
    """Call it with an ASGI application: it is served by our protocol, on a port of its own, until the test ends."""
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(app: Any, most: int = 100) -> SimpleNamespace:
        config = uvicorn.Config(app, http=HttpProtocol, lifespan="off", ws="none", log_config=None, access_log=False)
        server, gate = uvicorn.Server(config), Gate(most, getattr(app, "quick", None))
        server.server_state.gate = gate  # type: ignore[attr-defined]
        listener = socket.create_server(("127.0.0.1", 0))

        async def run() -> None:
            async def sweep() -> None:
                while True:
                    gate.sweep(asyncio.get_running_loop().time())
                    await asyncio.sleep(0.02)

            sweeper = asyncio.get_running_loop().create_task(sweep())
            await server.serve(sockets=[listener])
            sweeper.cancel()

        thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
        thread.start()
        started.append((server, thread))
        return SimpleNamespace(port=listener.getsockname()[1], gate=gate)

    yield serve
    for server, thread in started:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
