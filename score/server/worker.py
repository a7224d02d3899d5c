"""gunicorn's worker for this server: one thread speaks HTTP on any number of connections, each in a greenlet.

gunicorn's own threaded worker gives each request a thread. With a small model they spend more time on handing the GIL
to each other than on requests, and as many slow clients as there are threads stop the server. Here all of HTTP is one
thread: a request waits for its bytes, and for the model (`score.server.parking`), by giving way. The model runs in a thread
of its own, which needs the GIL only between forward passes.

Parsing, the WSGI environment and the form of answers are gunicorn's own. The main thread is left to signals, so that
azmlinfsrv, which sets an alarm around `run()` where it runs in the main thread, sets none.
"""

import errno
import faulthandler
import os
import select
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import Any

from greenlet import getcurrent, greenlet
from gunicorn import http, util
from gunicorn.http import wsgi
from gunicorn.workers.base import Worker

from score.inference import watchdog
from score.server.parking import Handler

DRAINING = "loadstone.draining"  # in the WSGI environment of a request that began after the server was told to stop

SILENT = 120.0  # seconds in which the loop does not come round; then the process ends, and gunicorn starts another
STALLED = 20.0  # seconds in which something has to come or go, once a request has begun
WHOLE_REQUEST = 180.0  # seconds for a request to arrive; Azure gives up after as many
LINGER = 2.0  # seconds that idle connections are kept when draining, for a request that is on its way
DRAINED_BYTES = 16_000_000  # of a body that nobody read, before the connection is given up

_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)


class HttpWorker(Worker):
    """The worker class to give to gunicorn: see `score.server.gunicorn_config`."""

    def run(self) -> None:
        self.loop = Loop(self)
        thread = threading.Thread(target=self.loop.run, name="http", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(1.0)  # returns to run signal handlers too
            if self.ppid != os.getppid():  # the master is gone
                self.stop()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no more connections, answer what was asked, and end."""
        self.alive = False
        self.loop.interrupt()


class Loop:
    """Resumes greenlets as their sockets, or the model, are ready."""

    def __init__(self, worker: HttpWorker) -> None:
        self.worker = worker
        self.connections: dict[int, Connection] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken: deque[Handler] = deque()
        self._asleep = False
        self._stop_at: float | None = None
        self._accepting = False

    def wake(self, handler: Handler) -> None:
        """Resume a greenlet soon. From any thread."""
        self._woken.append(handler)
        if self._asleep:
            self.interrupt()

    def give_way(self, handler: Handler) -> None:
        """Let all that are ready go first."""
        self._woken.append(handler)
        self.hub.switch()

    def interrupt(self) -> None:
        os.eventfd_write(self._alarm, 1)

    def run(self) -> None:
        self.hub = getcurrent()
        self._poll.register(self._alarm, select.EPOLLIN)
        for listener in self.worker.sockets:
            listener.setblocking(False)
            self._listeners[listener.fileno()] = listener
        self._accept_more(True)
        swept = 0.0
        while self._stop_at is None or (
            self.connections and time.monotonic() < self._stop_at and not watchdog.hopeless()
        ):
            self._asleep = True  # before looking: whoever wakes after this look rings the alarm
            events = self._poll.poll(0 if self._woken else 1.0)
            self._asleep = False
            for number, mask in events:
                self._happened(number, mask)
            for _ in range(len(self._woken)):  # those that come meanwhile have their turn after the sockets
                self._woken.popleft().switch()
            now = time.monotonic()
            if now - swept > 0.5:
                swept = now
                self.worker.notify()
                # In C, and so heard even where a forward pass never gives the interpreter back.
                faulthandler.dump_traceback_later(SILENT, exit=True)
                self._sweep(now)
            if not self.worker.alive and self._stop_at is None:
                self._begin_draining(now)
        self.worker.alive = False
        faulthandler.cancel_dump_traceback_later()

    def _happened(self, number: int, mask: int) -> None:
        if number == self._alarm:
            os.eventfd_read(self._alarm)
        elif number in self._listeners:
            self._accept(self._listeners[number])
        elif number in self.connections:
            self.connections[number].ready(mask)

    def _accept_more(self, wanted: bool) -> None:
        if wanted != self._accepting:
            for number in self._listeners:
                if wanted:
                    self._poll.register(number, select.EPOLLIN)
                else:
                    self._poll.unregister(number)
            self._accepting = wanted

    def _accept(self, listener: socket.socket, most: int = 64) -> None:
        for _ in range(most):
            if len(self.connections) >= self.worker.cfg.worker_connections:
                self._accept_more(False)  # the rest waits in the kernel's queue until a connection ends
                return
            try:
                accepted, client = listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:  # or the listener, readable for ever, would keep the loop busy
                    self._accept_more(False)
                return  # none left, or it has gone again
            connection = Connection(self, accepted, client, listener.getsockname())
            self.connections[accepted.fileno()] = connection
            self._poll.register(accepted, _EDGE)
            connection.handler.switch()

    def forget(self, number: int) -> None:
        """A connection's greenlet ends."""
        self.connections.pop(number, None)
        if self.worker.alive:
            self._accept_more(True)

    def _sweep(self, now: float) -> None:
        """Accept again where descriptors had run out, and give up on connections whose time has."""
        if self.worker.alive and len(self.connections) < self.worker.cfg.worker_connections:
            self._accept_more(True)
        for connection in list(self.connections.values()):
            if connection.parked and now > connection.until:
                connection.handler.throw(TimeoutError)

    def _begin_draining(self, now: float) -> None:
        for listener in self._listeners.values():
            self._accept(listener, self.worker.cfg.backlog)  # those that the kernel has taken for us already
        self._accept_more(False)
        for listener in self._listeners.values():
            listener.close()
        self._stop_at = now + self.worker.cfg.graceful_timeout
        for connection in self.connections.values():
            if connection.idle:
                connection.until = min(connection.until, now + LINGER)


class Connection:
    """A connection's greenlet, and the socket that gunicorn's code reads from and writes to in it."""

    def __init__(self, loop: Loop, sock: socket.socket, client: Any, server: Any) -> None:
        sock.setblocking(False)
        with suppress(OSError):  # it is no TCP socket, or has gone again
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.client, self.server = sock, client, server
        self.handler = Handler(self._run, loop.wake)
        self.parked = False  # waits for its socket
        self.idle = True  # between requests
        self.until = 0.0
        self._loop = loop
        self._worker = loop.worker
        self._readable = False
        self._unsent: list[bytes] = []
        self._whole_by = 0.0

    def ready(self, mask: int) -> None:
        """The socket can be read or written again, or is gone."""
        if mask & ~select.EPOLLOUT:
            self._readable = True
        if mask & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            self.handler.gone = True  # what it asked for and is not begun is dropped
        if self.parked:
            self.handler.switch()

    def recv(self, size: int) -> bytes:
        """At least a byte, or none at the end of the stream. Raises `TimeoutError` where none comes in time."""
        while True:
            if self._readable:
                try:
                    found = self.sock.recv(size)
                except BlockingIOError:
                    self._readable = False
                else:
                    self._begun()
                    return found
            patience = float(self._worker.cfg.keepalive) if self.idle else STALLED
            if self.idle and not self._worker.alive:
                patience = LINGER
            self._park(patience)

    def _begun(self) -> None:
        if self.idle:
            self.idle, self._whole_by = False, time.monotonic() + WHOLE_REQUEST

    def sendall(self, data: bytes) -> None:
        """Kept until `flush`, so that a head and a body are one packet; large ones go at once."""
        self._unsent.append(data)
        if len(data) > 1 << 16:
            self.flush()

    def flush(self) -> None:
        """Send what is kept. Raises `TimeoutError` where the client does not take it."""
        left = memoryview(b"".join(self._unsent))
        self._unsent.clear()
        self._whole_by = float("inf")
        while left:
            try:
                left = left[self.sock.send(left) :]
            except BlockingIOError:
                self._park(STALLED)

    def send(self, data: bytes) -> int:
        self.sendall(data)
        self.flush()
        return len(data)

    def fileno(self) -> int:
        return self.sock.fileno()

    def _park(self, patience: float) -> None:
        self.until = min(time.monotonic() + patience, float("inf") if self.idle else self._whole_by)
        self.parked = True
        try:
            self._loop.hub.switch()
        finally:
            self.parked = False

    def _run(self) -> None:
        number = self.sock.fileno()
        try:
            self._converse()
        except (TimeoutError, StopIteration, http.errors.NoMoreData):
            pass  # the client has stopped, or never began
        except OSError as error:
            if error.errno not in _GONE:
                self._worker.log.exception("a socket failed")
        except Exception:  # nothing that a connection does may end the loop
            self._worker.log.exception("a connection failed")
        finally:
            self._loop.forget(number)
            util.close(self.sock)

    def _converse(self) -> None:
        """Answer requests until either side has had enough."""
        parser = http.get_parser(self._worker.cfg, self, self.client)
        request = None
        try:
            while True:
                request = next(parser)
                if not self._answer(request) or not parser.finish_body(max_bytes=DRAINED_BYTES):
                    break
                request, self.idle = None, True
                self._loop.give_way(self.handler)  # a client that is quick to ask again must not starve the others
                if parser.unreader.buf.getvalue():  # the next request has come along with this one
                    self._begun()
        except (TimeoutError, OSError, StopIteration, http.errors.NoMoreData, greenlet.GreenletExit):
            raise
        except Exception as error:  # noqa: BLE001  # a malformed request, mostly: gunicorn knows what to answer
            self._worker.handle_error(request, self, self.client, error)
            self.flush()
        self._close_gracefully()

    def _answer(self, request: Any) -> bool:
        """Run the application; whether the connection goes on."""
        worker, begun = self._worker, datetime.now()
        worker.nr += 1
        if worker.nr >= worker.max_requests:
            worker.stop()
        response, environ = wsgi.create(request, self, self.client, self.server, worker.cfg)
        environ["wsgi.multithread"] = True
        environ[DRAINING] = not worker.alive
        if not worker.alive or not worker.cfg.keepalive:
            response.force_close()
        body = worker.wsgi(environ, response.start_response)
        try:
            for part in body:
                response.write(part)
            response.close()
        finally:
            worker.log.access(response, request, environ, datetime.now() - begun)
            if hasattr(body, "close"):
                body.close()
        if not worker.alive:
            response.force_close()
        self.flush()
        return not response.should_close()

    def _close_gracefully(self) -> None:
        """Let the client read the answer before the connection goes (RFC 9112, section 9.6): a socket closed with
        bytes unread in it is reset, and takes the answer along."""
        self.sock.shutdown(socket.SHUT_WR)
        self._whole_by = time.monotonic() + LINGER
        for _ in range(DRAINED_BYTES >> 16):
            if not self.recv(1 << 16):
                return
