"""`score serve`: azmlinfsrv with this project's entry script."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from score.cli.console import Model


def serve(
    path: Model,
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 5001,
) -> None:
    """Serve a checkpoint over HTTP, with the server that Azure ML runs."""
    from score.server.gunicorn_config import ARGUMENTS as GUNICORN_ARGUMENTS  # and so the worker, for no other command

    root = Path(__file__).resolve().parents[2]
    server, model = Path(sys.executable).parent / "azmlinfsrv", str(path.absolute())
    os.environ["AML_APP_ROOT"] = str(root)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # else azmlinfsrv's banner comes last, after a diagnosis
    os.environ["AZUREML_MODEL_DIR"] = model
    os.environ["GUNICORN_CMD_ARGS"] = f"{GUNICORN_ARGUMENTS} {os.environ.get('GUNICORN_CMD_ARGS', '')}".strip()
    entry = str(root / "score" / "main.py")
    named = os.environ.get("SCORE_ARCHITECTURE", "").rpartition(":")
    if named[0].endswith(".py") and Path(named[0]).is_file():
        os.environ["SCORE_ARCHITECTURE"] = f"{Path(named[0]).absolute()}:{named[2]}"
    os.chdir(root)  # gunicorn imports from where it runs, and that may be a folder from strangers
    os.execv(  # noqa: S606  # our own server, with a path that is not parsed by any shell
        server, [str(server), "--entry_script", entry, "--model_dir", model, "--port", str(port)]
    )
