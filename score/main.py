"""The Azure ML entry script: `init()` loads the checkpoint, `run()` answers a request."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Azure runs this file from anywhere, as `entry_module`

from score.server import azmlinfsrv, startup
from score.server.azmlinfsrv import Request, Response, rawhttp


def init() -> None:
    azmlinfsrv.take_over(startup.started())


@rawhttp  # type: ignore[misc]
def run(request: Request) -> Response:
    return azmlinfsrv.respond(request)
