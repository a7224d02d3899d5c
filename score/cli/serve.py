"""`score serve`: azmlinfsrv with this project's entry script."""

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from score.cli.console import Model, errors_shown
from score.cli.flags import Given, to_environment, with_settings
from score.errors import PortTaken, PortUnusable
from score.settings import LOCAL, Settings

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104  # only in a container, and where it is asked for


@with_settings
def serve(
    path: Model,
    given: Given,
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 5001,
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on: this machine alone, unless this runs in a container."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log as in a deployment.")] = False,
) -> None:
    """Serve a checkpoint over HTTP, with the server that Azure ML runs."""
    with errors_shown():
        Settings.load(path, **given)  # what is wrong with a setting is said now
        where = host or (EVERYWHERE if _in_container() else LOOPBACK)
        refuse_taken(where, port)
    from score.server.gunicorn_config import ARGUMENTS as GUNICORN_ARGUMENTS  # and so the worker, for no other command

    root = Path(__file__).resolve().parents[2]
    model = str(path.absolute())
    os.environ["AML_APP_ROOT"] = str(root)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # else azmlinfsrv's banner comes last, after a diagnosis
    os.environ["AZUREML_MODEL_DIR"] = model
    to_environment(given)
    extra = os.environ.get("GUNICORN_CMD_ARGS", "")
    if host is not None or "--bind" not in extra.split():
        extra = f"{extra} {_bind(where, port)}"
    os.environ["GUNICORN_CMD_ARGS"] = f"{GUNICORN_ARGUMENTS} {extra}".strip()
    entry = str(root / "score" / "main.py")
    named = os.environ.get("SCORE_ARCHITECTURE", "").rpartition(":")
    if named[0].endswith(".py") and Path(named[0]).is_file():
        os.environ["SCORE_ARCHITECTURE"] = f"{Path(named[0]).absolute()}:{named[2]}"
    os.chdir(root)  # gunicorn imports from where it runs, and that may be a folder from strangers
    server = [str(Path(sys.executable).parent / "azmlinfsrv")]
    if not verbose:
        os.environ[LOCAL] = "1"
        server = [sys.executable, "-m", "score.server.local"]
    os.execv(  # noqa: S606  # our own server, with a path that is not parsed by any shell
        server[0], [*server, "--entry_script", entry, "--model_dir", model, "--port", str(port)]
    )


def refuse_taken(host: str, port: int) -> None:
    """Raise `PortTaken` or `PortUnusable` where nothing can listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"something listens on port {port} already",
                hint=f"End it, or take another port, as in: --port {port + 1 if port < 65535 else 5001}.",
            ) from None
        raise PortUnusable(f"nothing can listen on {host}, port {port}: {error.strerror}") from None


def _bind(host: str, port: int) -> str:
    """gunicorn's argument; this machine alone has two addresses where it has IPv6."""
    if host in (LOOPBACK, "localhost"):
        try:
            refuse_taken("::1", port)
        except (PortTaken, PortUnusable):
            return f"--bind {LOOPBACK}:{port}"
        return f"--bind {LOOPBACK}:{port} --bind [::1]:{port}"
    return f"--bind [{host}]:{port}" if ":" in host else "" if host == EVERYWHERE else f"--bind {host}:{port}"


def _in_container() -> bool:
    """Whether this runs in Docker, podman or Kubernetes: what is bound to this machine alone can't be reached there."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return any(mark.exists() for mark in marks) or "KUBERNETES_SERVICE_HOST" in os.environ
