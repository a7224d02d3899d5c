"""An answer on its way to the client, as ASGI has it, or as our protocol sends it faster."""

import contextlib
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Protocol

from starlette.types import Receive, Send

from score.errors import ClientGone
from score.server.answer import Answer

AT_ONCE = "loadstone.at_once"  # among the extensions in the scope: an `AtOnce`
_STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus} | {
    ClientGone.status: f"{ClientGone.status} Client Closed Request"  # as nginx calls it; nobody is there to read it
}


class AtOnce(Protocol):
    """The server's own way to take a whole body and to give a whole answer, each in one piece, without waiting."""

    def body(self) -> bytes | None:
        """All of the request's body; None where it has yet to arrive."""

    def send(self, head: str, body: bytes) -> bool:
        """Send a whole answer, `head` being its status and headers, all known to be fit for it. False, and nothing is
        sent, where the client has yet to take what was sent before."""


def head_of(found: Answer, headers: Mapping[str, str]) -> str:
    """The status and headers of a whole answer as HTTP has them, each line with its end."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    length = "" if found.status == 204 else f"content-length: {len(found.body)}\r\n"
    return f"{_STATUS[found.status]}\r\n{lines}{length}"


async def respond(
    send: Send, found: Answer, headers: dict[str, str], receive: Receive, at_once: AtOnce | None = None
) -> None:
    """Send an answer: as a whole, by the server's own way where it has one, or piece by piece as they come, each as
    soon as it is there. What makes the pieces is closed once the client has left."""
    if found.pieces is None and at_once is not None and at_once.send(head_of(found, headers), found.body):
        return
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    if found.pieces is None:
        if found.status != 204:
            raw.append((b"content-length", str(len(found.body)).encode()))
        await send({"type": "http.response.start", "status": found.status, "headers": raw})
        await send({"type": "http.response.body", "body": found.body})
        return
    await send({"type": "http.response.start", "status": found.status, "headers": raw})
    left = gone(receive)
    async with contextlib.aclosing(found.pieces) as pieces:
        async for piece in pieces:
            if left():
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def gone(receive: Receive) -> Callable[[], bool]:
    """Whether the client has left: uvicorn's cycle knows, without being waited for."""
    cycle = getattr(receive, "__self__", None)
    return lambda: bool(getattr(cycle, "disconnected", False))
