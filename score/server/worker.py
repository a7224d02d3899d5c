"""gunicorn's worker class for this server: uvicorn (uvloop, httptools) with our protocol, application and log.

gunicorn's master imports this file too, and needs nothing of the model: torch and what uses it are for workers.
Read from gunicorn 27.0, uvicorn 0.54 and uvicorn-worker 0.4.
"""

import asyncio
import contextlib
import faulthandler
import gc
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from uvicorn.config import Config
from uvicorn.server import HANDLED_SIGNALS, Server
from uvicorn_worker import UvicornWorker

from score import log
from score.errors import InvalidSetting, LoadError
from score.inference import watchdog
from score.server.log import Background
from score.settings import Settings, variable

if TYPE_CHECKING:
    from score.server.gate import Gate

SILENT = 120.0  # seconds in which the loop does not come round; then the process ends, and gunicorn starts another
SWEEP = 0.5  # seconds between two looks at all connections
LAST_CALL = 0.1  # seconds in which those that the kernel has taken for us are still accepted, after SIGTERM
GARBAGE = 20_000  # objects between two looks for cycles, of which requests make none
_RESERVED = 128  # descriptors for everything but connections


class HttpWorker(UvicornWorker):  # type: ignore[misc]
    """The worker class to give to gunicorn: see `score.server.gunicorn_config`."""

    CONFIG_KWARGS = {  # noqa: RUF012  # as its base class has it
        "loop": "uvloop",
        "http": "score.server.protocol:HttpProtocol",
        "ws": "none",
        "lifespan": "off",
        "interface": "asgi3",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
    }

    def init_process(self) -> None:
        from score.server.decoder import Decoder

        self.decoder = Decoder()
        self.decoder.start()  # before the model is loaded, and the process gives up starting others
        self.grpc = _grpc()  # the same, and opening sockets
        super().init_process()

    async def _serve(self) -> None:
        from score.server import azmlinfsrv
        from score.server.app import Application
        from score.server.gate import Gate
        from score.server.routes import every_row, prometheus

        prometheus.share(azmlinfsrv.models())
        if self.grpc is not None:
            self.grpc.start(azmlinfsrv.models())
        application = self.config.app = Application(
            azmlinfsrv.models(), every_row(), self.wsgi, self.decoder, hooked=azmlinfsrv.has_hooks()
        )
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout
        server = _Server(self.config, Gate(_connections(self.cfg.worker_connections), application.quick), self)
        self._install_sigquit_handler()
        for number in HANDLED_SIGNALS:  # uvicorn raises them again at its end, which would be this process's
            signal.signal(number, signal.SIG_IGN)
        await server.serve(sockets=self.sockets)
        if self.grpc is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.grpc.stop)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def run(self) -> None:
        background = Background()
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through torch's objects again and again takes 0.15 s each time
        gc.set_threshold(GARBAGE)
        try:
            super().run()
        finally:
            written = background.stop()
            self.decoder.stop()
            if not written or watchdog.running_for():  # nobody reads the log, or the model does not come back
                os._exit(0)


class _Server(Server):  # type: ignore[misc]
    """uvicorn's server, with an eye on time and on its master, and a patient end."""

    def __init__(self, config: Config, gate: "Gate", worker: HttpWorker) -> None:
        super().__init__(config)
        self._gate, self._worker = gate, worker
        self.server_state.gate = gate  # type: ignore[attr-defined]  # each connection finds it there

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeper = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._worker.notify()
            # In C, and so heard even where a forward pass never gives the interpreter back.
            faulthandler.dump_traceback_later(SILENT, exit=True)
            self._gate.sweep(loop.time())
            if self._worker.ppid != os.getppid():  # the master is gone
                self.should_exit = True
            if self._gate.draining and watchdog.hopeless():
                self.force_exit = True
            await asyncio.sleep(SWEEP)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        application: Any = self.config.loaded_app
        application.draining = self._gate.draining = True
        await asyncio.sleep(LAST_CALL)
        await super().shutdown(sockets)
        self._sweeper.cancel()
        faulthandler.cancel_dump_traceback_later()


def _grpc() -> Any:
    """The server for gRPC, where it is wanted. What keeps it from that ends the worker, and says why."""
    if not os.environ.get(variable("grpc_port")):
        return None
    try:
        settings = Settings.load()
        assert settings.grpc_port is not None, "it was set, and not to nothing"
        try:
            from score.server.grpc_server import GrpcServer
        except ImportError as error:
            raise InvalidSetting(
                f"SCORE_GRPC_PORT is set, and {error.name} is not installed",
                hint="Install it: pip install 'loadstone[grpc]'.",
            ) from None
        return GrpcServer(settings.grpc_port, int(settings.max_body_mb * 1_000_000))
    except LoadError as error:
        log.error("gRPC can't be served\n\n%s", error.screen())
        os._exit(LoadError.exit_code)


def _connections(wanted: int) -> int:
    """How many connections there may be: as many as were asked for, as far as there are descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _RESERVED))
