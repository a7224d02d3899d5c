"""uvicorn's HTTP/1.1 protocol with the limits that it leaves to a proxy: time, sizes, numbers; and errors in our form.

Rules (RFC 9112):
- A head comes within STALLED seconds of its last byte and WHOLE seconds of its first, and so does a body. A connection
  without a request goes after KEEPALIVE seconds.
- Where there are more connections than may be, those that never sent a byte go first, then those between requests, the
  oldest first.
- What can't be parsed is answered with 400 or 431, and the connection ends. An answer that is on its way before is sent
  first: nothing that follows a request on its connection changes the answer to it.
- A client that does not take its answer for STALLED seconds is given up.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from score import log
from score.errors import MalformedRequest, RequestTimeout, ScoreError
from score.server import answer
from score.server.app import REFUSAL
from score.server.gate import Gate
from score.server.heads import MOST_HEAD, too_large, wrong_with
from score.server.sending import AT_ONCE, AtOnce, head_of
from score.server.service import new_id

KEEPALIVE = 75.0  # seconds; longer than load balancers keep theirs, or requests are sent into closing connections
STALLED = 20.0  # seconds in which something has to come or go, once a request has begun
WHOLE = 180.0  # seconds for a request to arrive; Azure gives up after as many
LINGER = 2.0  # seconds that a connection is kept after its last answer, for the client to read it
MOST_IGNORED = 16_000_000  # bytes of a body that nobody reads any more, before the connection is given up


class HttpProtocol(HttpToolsProtocol):
    """One connection. `gate` is an attribute of the server's state."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.gate: Gate = self.server_state.gate  # type: ignore[attr-defined]
        self.silent = True  # has never sent a byte
        self._reading = self._in_head = False  # a request has begun, and its head has not ended
        self._refused = False  # nothing more is read
        self._error: ScoreError | None = None  # why the parser was stopped
        self._head_bytes = self._ignored = 0
        self._last = self._whole_by = 0.0
        self._close_by = self._blocked_since = float("inf")

    # asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._last = self.loop.time()
        self.gate.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._ignore(len(data))
            return
        self.silent = False
        self._last = self.loop.time()
        first = not self._reading
        if first:
            if self._repeated(data):
                return
            self._reading, self._whole_by = True, self._last + WHOLE
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._stop(self._error or MalformedRequest(f"not an HTTP request: {error}"))
            return
        except httptools.HttpParserUpgrade:  # to what is not spoken here: answered as HTTP, and the last
            self._refused = True
            self.cycle.keep_alive = False
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD:
                self._stop(too_large())
        elif self.cycle is not None and self.cycle.response_complete and self._reading:
            self._ignore(len(data))
        elif first and not self._reading and self.cycle.keep_alive:
            self.gate.heads.learn(data, self.scope)

    def _repeated(self, data: bytes) -> bool:
        """Take a whole request past the parser, where its head is known. The parser is at a request's beginning, and
        stays there."""
        if self.cycle is not None and not (self.cycle.response_complete and self.cycle.keep_alive):
            return False
        found = self.gate.heads.find(data)
        if found is None:
            return False
        (kept, _, plain), body = found
        quick = self.gate.quick
        if plain is not None and quick is not None and not self.gate.draining and not self.flow.write_paused:
            before, self.cycle = self.cycle, _Exchange(self)  # type: ignore[assignment]
            if quick.begin(plain, body, self.cycle):  # type: ignore[arg-type]
                return True
            self.cycle = before
        scope: Any = {
            **kept,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "state": self.app_state.copy(),
        }
        self.scope, self.headers = scope, scope["headers"]
        self.cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=not self.gate.draining,
            on_response=self.on_response_complete,
        )
        self.cycle.body, self.cycle.more_body = bytearray(body), False
        self.cycle.message_event.set()
        scope["extensions"] = {AT_ONCE: _AtOnce(self, self.cycle)}
        self._start_asgi_task(self.cycle, self.app)
        return True

    def pause_writing(self) -> None:
        self._blocked_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._blocked_since = float("inf")
        super().resume_writing()

    # the parser's side

    def on_message_begin(self) -> None:
        self._in_head, self._reading, self._head_bytes, self._ignored = True, True, 0, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._error = wrong_with(self.headers, self.url, self.parser.get_http_version())
        if self._error is not None:
            raise ValueError(self._error.message)
        super().on_headers_complete()
        self.scope["extensions"] = {AT_ONCE: _AtOnce(self, self.cycle)}  # type: ignore[dict-item]
        if self.gate.draining:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._reading = False
        super().on_message_complete()

    # the cycle's side

    def on_response_complete(self) -> None:
        """As uvicorn has it, without a timer for each answer: the gate's sweep ends what is idle for too long."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._last = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def write_whole(self, cycle: Any, head: str, body: bytes) -> None:
        """An answer in one write, in place of the cycle's two."""
        defaults = b"".join([b"%b: %b\r\n" % each for each in self.server_state.default_headers])
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"HTTP/1.1 " + head.encode("latin-1") + defaults + end + body)
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    # limits

    @property
    def idle(self) -> bool:
        """Between requests."""
        return not self._reading and (self.cycle is None or self.cycle.response_complete) and not self._refused

    def check(self, now: float) -> None:
        """Give up on what takes too long."""
        if now > self._close_by or now - self._blocked_since > STALLED:
            self.abort()
        elif self.transport.is_closing():
            self._close_by = min(self._close_by, now + STALLED)  # whoever does not take what was written
        elif self._reading and not self._refused:
            if now > min(self._last + STALLED, self._whole_by):
                self._stop(RequestTimeout(f"nothing more of the request came for {now - self._last:.0f} s"))
        elif self.idle and now - self._last > KEEPALIVE:
            self.transport.close()

    def shutdown(self) -> None:
        """The server is about to end. A connection between requests is kept for a moment, for what is on its way."""
        if self.idle:
            self._close_by = self.loop.time() + LINGER
        elif self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def abort(self) -> None:
        self.transport.abort()

    def _stop(self, error: ScoreError) -> None:
        """Read nothing more. The request that is being read gets the error; those before it their answers."""
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not self.pipeline):
            self.refuse(error)
        elif not self._in_head and cycle.more_body and not cycle.response_started:  # it waits for its body
            self._refused = True
            cycle.scope[REFUSAL] = error  # type: ignore[literal-required]
            cycle.keep_alive = cycle.more_body = False
            cycle.message_event.set()
        else:
            self._refused = True
            cycle.keep_alive = False

    def refuse(self, error: ScoreError) -> None:
        """Answer with an error, and end; the client may still be sending, and is given time to read it."""
        self._refused = True
        found = answer.of_error(error, new_id())
        log.info("refused what came from %s: %s", self.client[0] if self.client else "a socket", error.message)
        head = f"HTTP/1.1 {head_of(found, found.headers)}connection: close\r\n\r\n"
        self.transport.write(head.encode("latin-1") + found.body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._close_by = self.loop.time() + LINGER

    def _ignore(self, size: int) -> None:
        self._ignored += size
        if self._ignored > MOST_IGNORED:
            self.abort()


class _AtOnce(AtOnce):
    """A cycle's body and answer, past its messages: a third of what these take."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: HttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol, self._cycle = protocol, cycle

    def body(self) -> bytes | None:
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or REFUSAL in cycle.scope:
            return None
        whole, cycle.body = bytes(cycle.body), bytearray()
        return whole

    def send(self, head: str, body: bytes) -> bool:
        protocol, cycle = self._protocol, self._cycle
        if protocol.flow.write_paused:
            return False
        if cycle.disconnected:
            return True
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        protocol.write_whole(cycle, head, body if cycle.scope["method"] != "HEAD" else b"")
        del cycle.scope["extensions"]  # it leads back to the cycle, and all of it would wait for the garbage collector
        return True


class _Unheard:
    """An event that nobody waits for."""

    def set(self) -> None: ...


class _Exchange:
    """What the protocol has to know of a request that goes the quick way, as uvicorn's cycle has it."""

    __slots__ = ("_protocol", "disconnected", "keep_alive", "response_complete")
    more_body = response_started = False
    message_event = _Unheard()

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self.keep_alive, self.disconnected, self.response_complete = True, False, False

    def gone(self) -> bool:
        return self.disconnected

    def send(self, head: str, body: bytes) -> None:
        if not self.disconnected:
            self._protocol.write_whole(self, head, body)
