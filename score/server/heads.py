"""Heads of requests: what is wrong with them, and those that were parsed before.

A client repeats its head to the letter from one request to the next, but for the length of the body. The parser starts
each request from the same state, so that the same bytes have the same meaning: what it made of them is kept, and the
next request with them goes past it. Only whole requests are taken, whose body has the length that the head says;
everything else goes to the parser.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from score.errors import HeadTooLarge, MalformedRequest, ScoreError

TEXTS = "loadstone.headers"  # in the scope of such a request: its headers as text
MOST_HEAD = 1 << 16  # bytes of a request's line and headers
MOST_HEADERS = 100
_MOST = 256  # heads that are kept, of all connections together
_LONGEST = 2048  # bytes of one
_END = b"\r\n\r\n"


class ParsedHead(NamedTuple):
    """What the parser made of a head: ASGI's scope but for the connection's part of it, and the length of the body;
    what whoever was asked made of that."""

    scope: Mapping[str, Any]
    length: int
    plain: Any


class ParsedHeads:
    """The heads of whole requests, by their bytes; one is kept from its second time on, since many have an id of their
    own and never come again."""

    def __init__(self, plain: Callable[[Mapping[str, Any]], Any] = lambda _scope: None) -> None:
        self._plain = plain
        self._known: dict[bytes, ParsedHead] = {}
        self._once: dict[int, None] = {}  # hashes of those that came once; where two are the same, one is kept early

    def find(self, data: bytes) -> tuple[ParsedHead, bytes] | None:
        """The head that `data` begins with, and the body that is all the rest; None where it is not known."""
        end = data.find(_END, 0, _LONGEST) + len(_END)
        known = self._known.get(data[:end])
        return None if known is None or len(data) - end != known.length else (known, data[end:])

    def learn(self, data: bytes, scope: Mapping[str, Any]) -> None:
        """Take note of `data`, in which the parser found the request of `scope`. Nothing is kept of what is more than
        one whole request, has a body that is framed otherwise than by its length, or asks to go on by 100."""
        end = data.find(_END, 0, _LONGEST) + len(_END)
        head = data[:end]
        seen = hash(head)
        if seen not in self._once:
            _make_room(self._once)
            self._once[seen] = None
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        # Of two requests, or of one and a part, the first head's end and the last head's length do not fit.
        if end < len(_END) or not length.isdigit() or int(length) != len(data) - end or _FRAMED & headers.keys():
            return
        texts = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        _make_room(self._known)
        kept = {name: scope[name] for name in _KEPT} | {TEXTS: texts}
        self._known[head] = ParsedHead(kept, len(data) - end, self._plain(kept))


def _make_room(entries: dict[Any, Any]) -> None:
    if len(entries) >= _MOST:
        del entries[next(iter(entries))]


_KEPT = ("type", "asgi", "http_version", "root_path", "headers", "method", "path", "raw_path", "query_string")
_FRAMED = {b"transfer-encoding", b"expect", b"upgrade"}


def too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the request's line and headers have more than {MOST_HEAD:,} bytes, or {MOST_HEADERS} headers")


def wrong_with(headers: list[tuple[bytes, bytes]], url: bytes, version: str) -> ScoreError | None:
    """What the parser lets pass and RFC 9112 does not."""
    size, hosts, lengths, encoded = len(url), 0, 0, False
    if len(headers) > MOST_HEADERS:
        return too_large()
    for name, value in headers:
        size += len(name) + len(value)
        hosts += name == b"host"
        lengths += name == b"content-length"
        encoded |= name == b"transfer-encoding"
    if size > MOST_HEAD:
        return too_large()
    if version not in ("1.0", "1.1"):
        return MalformedRequest(f"HTTP/{version} is not spoken here; HTTP/1.1 is")
    if hosts != 1 and (version == "1.1" or hosts):
        return MalformedRequest(f"a request has one Host header, and this has {hosts}")
    if lengths > 1:
        return MalformedRequest("the length of the body is said twice")
    if encoded:
        codings = b",".join(value for name, value in headers if name == b"transfer-encoding").lower().strip()
        if codings != b"chunked" or lengths or version == "1.0":
            return MalformedRequest(
                "a body's Transfer-Encoding is chunked, once, in HTTP/1.1, and without Content-Length"
            )
    return None
