"""How gunicorn is run, in one place: GUNICORN_CMD_ARGS="--config /path/to/score/server/gunicorn_config.py".

azmlinfsrv itself gives the address, the number of workers and the time-out. What else stands in GUNICORN_CMD_ARGS goes
before what is said here.
"""

import argparse
import itertools
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# gunicorn runs this file, and puts the working directory in front: no `torch.py` or `score.py` there may be taken for
# what it is called.
_ROOT = str(Path(__file__).resolve().parents[2])
sys.path[:] = [_ROOT, *(place for place in sys.path if place and Path(place).resolve() != Path.cwd().resolve())]

from gunicorn.glogging import Logger

from score.errors import LoadError
from score.server import local
from score.server.worker import HttpWorker
from score.settings import LOCAL, METRICS, RANK, variable

ARGUMENTS = f"--config {shlex.quote(__file__)}"


def _is_an_error(record: logging.LogRecord) -> bool:
    """azmlinfsrv logs a traceback where the model's folder has not the layout that Azure Kubernetes had."""
    return record.msg != "Error while fetching model IDs"


logging.getLogger("azmlinfsrv.trace").addFilter(_is_an_error)


class Log(Logger):  # type: ignore[misc]
    """gunicorn's log without what ours says better: a line for each request to `/score`, and, after a start that
    failed, that it did. So the diagnosis is the last thing in the log."""

    start_failed = False

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None:
        self.start_failed |= msg.startswith("Worker (pid:%s) exited") and args[-1:] == (LoadError.exit_code,)
        if not self.start_failed:
            super().error(msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        if environ.get("PATH_INFO") != "/score":
            super().access(resp, req, environ, request_time)


def on_starting(server: Any) -> None:
    """azmlinfsrv binds to 0.0.0.0 whatever GUNICORN_CMD_ARGS says: its `--bind` wins, and else it is both IPv4 and IPv6
    where the machine has both."""
    arguments = argparse.ArgumentParser(add_help=False)
    arguments.add_argument("-b", "--bind", action="append")
    wanted = arguments.parse_known_args(shlex.split(os.environ.get("GUNICORN_CMD_ARGS", "")))[0].bind
    given = server.cfg.settings["bind"].get()
    both = [each.replace("0.0.0.0:", "[::]:") for each in given] if _has_ipv6() else given
    server.cfg.set("bind", wanted or both)

    _prepare_workers(server.cfg)


def _prepare_workers(cfg: Any) -> None:
    """One worker a GPU, unless the deployment says how many; several count together."""
    if "WORKER_COUNT" not in os.environ and (gpus := visible_gpus()) > 1:
        cfg.set("workers", gpus)
    if cfg.workers > 1:
        os.environ[METRICS] = tempfile.mkdtemp(prefix="loadstone-")


def visible_gpus(environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs the workers will see, without CUDA: a process that has used it can't fork. None where the
    deployment wants a CPU, or one GPU by its number."""
    if environ.get(variable("device"), "auto") not in ("auto", "cuda"):
        return 0
    there = sum(re.fullmatch(r"nvidia\d+", each.name) is not None for each in devices.iterdir())
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return there
    listed = [each for each in chosen.split(",") if each.strip() and each.strip() != "-1"]
    return min(there, len(listed))


def on_exit(_server: Any) -> None:
    """What the workers counted together goes with them."""
    if (folder := os.environ.get(METRICS)) is not None:
        shutil.rmtree(folder, ignore_errors=True)


def pre_fork(server: Any, worker: Any) -> None:
    """A worker has the lowest rank that no other has: one that is started in another's place has that one's GPU."""
    taken = {getattr(other, "rank", None) for other in server.WORKERS.values()}
    worker.rank = next(rank for rank in itertools.count() if rank not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """A worker of several knows its rank. That of `score serve` is as quiet as its parent."""
    if server.cfg.workers > 1:
        os.environ[RANK] = str(worker.rank)
    if LOCAL in os.environ:
        local.hush()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


# Threads of a forward pass that have nothing to do spin for a tenth of a millisecond, as long as it takes from one
# layer to the next, and then sleep: libgomp's three milliseconds would take the core from HTTP, and to wake one that
# sleeps at each layer takes a third of the pass. OpenMP reads it when torch is imported, which the workers do.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

worker_class = HttpWorker
worker_connections = 1000
graceful_timeout = 30  # seconds to answer what was asked, after SIGTERM
control_socket_disable = True  # it would write into the home folder
# No header of a proxy means anything here. Said so that gunicorn need not look up the client's address to find out.
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
logger_class = Log
if os.access("/dev/shm", os.W_OK):  # noqa: S108  # gunicorn's own file, one a worker, that it touches all the time
    worker_tmp_dir = "/dev/shm"  # noqa: S108
