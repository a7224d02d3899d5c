"""`score serve`: azmlinfsrv with this project's entry script."""

import errno
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from score.cli import gcs, platforms
from score.cli.console import err, errors_shown
from score.cli.flags import Given, to_environment, with_settings
from score.cli.platforms import Place
from score.errors import ModelDirUnset, PortTaken, PortUnusable
from score.inference import allocator
from score.settings import LOCAL, Settings

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104  # only in a container, and where it is asked for


@with_settings
def serve(
    given: Given,
    path: Annotated[
        Path | None,
        typer.Argument(help="The checkpoint, or the folder that holds it; else where the platform says that it is."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="The port to listen on; else the platform's, or 5001.", min=1, max=65535),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on: this machine alone, unless this runs in a container."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log as in a deployment.")] = False,
) -> None:
    """Serve a checkpoint over HTTP, with the server that Azure ML runs."""
    with errors_shown():
        place = platforms.recognised(path)
        port = port or place.port
        path = path or _model_of(place)
        if os.environ.get("SCORE_ON_LOAD_ERROR") != "serve":
            settings = Settings.load(path, **given)  # what is wrong with a setting is said now
            if not path.exists():  # so is a path that is wrong, before it looks like AZUREML_MODEL_DIR's fault
                from score.weights.locate import find_checkpoint

                find_checkpoint(settings)
        foreign = place.platform is not None and place.platform.outside
        where = host or (EVERYWHERE if foreign or _in_container() else LOOPBACK)
        refuse_taken(where, port)
    if verbose or foreign:
        err.print(f"{place}: port {port}, model {path}")
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
    allocator.preload(os.environ)
    os.chdir(root)  # gunicorn imports from where it runs, and that may be a folder from strangers
    server = [str(Path(sys.executable).parent / "azmlinfsrv")]
    if not verbose:
        os.environ[LOCAL] = "1"
        server = [sys.executable, "-m", "score.server.local"]
    os.execv(  # noqa: S606  # our own server, with a path that is not parsed by any shell
        server[0], [*server, "--entry_script", entry, "--model_dir", model, "--port", str(port)]
    )


def _model_of(place: Place) -> Path:
    """The model that the platform names, fetched where it is elsewhere. Raises `ModelDirUnset`."""
    if place.gcs:
        return gcs.fetched(place.gcs, Path(tempfile.mkdtemp(prefix="model-")))
    if place.model is None:
        raise ModelDirUnset(
            f"no model is named, and {place} that names one",
            hint="Name the checkpoint, or the folder that holds it: score serve path/to/model.",
        )
    return place.model


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
