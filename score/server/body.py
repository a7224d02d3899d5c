"""A request's body while it comes in: counted, bounded, decompressed."""

import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from score.codecs.base import Body
from score.codecs.oip_v2 import LENGTH_HEADER, SIZE_PARAMETER
from score.errors import BodyTooLarge, InvalidGzip, InvalidTable, InvalidTensor, QueueFull, UnsupportedMediaType
from score.settings import Settings

PIECE = 1 << 16  # bytes that are inflated at a time, so that a bomb is seen before it is large
_GZIP = 31  # what zlib calls it
_ENCODINGS = {"identity": 0, "": 0, "gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}
_LENGTH = LENGTH_HEADER.lower()
_HEADER = {"present": True, "absent": False}  # of text/csv: RFC 4180


class Held:
    """Bytes of requests in memory, as sent and as decoded, in all requests together."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> int:
        with self._lock:
            self.bytes += size
            return self.bytes


held = Held()


def nbytes(values: Any) -> int:
    """What arrays or tensors take, one or by name."""
    if isinstance(values, np.ndarray):
        return values.nbytes
    arrays = values.values() if isinstance(values, Mapping) else (values,)
    return sum(getattr(array, "nbytes", 8) for array in arrays)


class Share:
    """What one request has of the memory that all requests may hold together."""

    def __init__(self) -> None:
        self._counted = 0

    def hold(self, size: int, settings: Settings) -> None:
        """Count what this request takes. Raises `QueueFull`; what was counted stays counted until `release`."""
        self._counted += size
        if held.add(size) > settings.max_held_mb * 1e6:
            raise QueueFull(f"requests of {held.bytes / 1e6:.0f} MB are being answered already")

    def release(self) -> None:
        held.add(-self._counted)
        self._counted = 0


class Intake:
    """One request's body, counted in its `share`.

    Raises `BodyTooLarge` or `UnsupportedMediaType` by what the headers say.
    """

    def __init__(self, headers: Mapping[str, str], settings: Settings, share: Share) -> None:
        self._headers, self._settings = headers, settings
        self._limit = int(settings.max_body_mb * 1_000_000)
        self._pieces: list[bytes] = []
        self.share = share
        self.size = 0  # bytes as they were sent
        said = headers.get("content-length", "")
        if said.isascii() and said.isdigit() and (len(said) > 15 or int(said) > self._limit):
            raise self._too_large()
        self.compressed = _compressed(headers["content-encoding"]) if "content-encoding" in headers else 0

    def add(self, piece: bytes) -> None:
        """The next bytes. Raises `BodyTooLarge`, or `QueueFull` where all requests together hold too much."""
        self.size += len(piece)
        self.hold(len(piece))
        if self.size > self._limit:
            raise self._too_large()
        self._pieces.append(piece)

    def hold(self, size: int) -> None:
        """Count what the request takes beside its bytes. Raises `QueueFull`."""
        self.share.hold(size, self._settings)

    def body(self, codec: str = "") -> Body:
        """All of it, decompressed; for that `codec`, where the path says which. Raises `BodyTooLarge`, `QueueFull`,
        `InvalidGzip`, `InvalidTable` or `InvalidTensor`."""
        data = b"".join(self._inflated() if self.compressed else self._pieces)
        self._pieces.clear()
        said = content_type_of(self._headers)
        return Body(
            data,
            said.name,
            None if said.json_length is None else _json_length(said.json_length, len(data)),
            self._limit,
            codec,
            None if said.header is None else _has_header(said.header),
        )

    def _inflated(self) -> Iterator[bytes]:
        stream, size = zlib.decompressobj(self.compressed), 0
        for piece in self._pieces:
            while piece:
                if stream.eof:  # gzip files may follow each other
                    stream = zlib.decompressobj(self.compressed)
                try:
                    part = stream.decompress(piece, PIECE)
                except zlib.error as error:
                    raise InvalidGzip(f"the body is not {self._named()} ({error})") from None
                piece = stream.unused_data or stream.unconsumed_tail
                size += len(part)
                self.hold(len(part))
                if size > self._limit:
                    raise self._too_large()
                yield part
        if not stream.eof:
            raise InvalidGzip("the compressed body ends before its end")

    def _named(self) -> str:
        return "gzip" if self.compressed == _GZIP else "deflate, which is zlib's format"

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self._settings.max_body_mb:g} MB")


class ContentType(NamedTuple):
    """What a body is said to be: its type, and as they were said, how much of it is JSON (where binary data follow) and
    whether a table has a header."""

    name: str
    json_length: str | None = None
    header: str | None = None


def content_type_of(headers: Mapping[str, str]) -> ContentType:
    name, semicolon, rest = headers.get("content-type", "").partition(";")
    more = _parameters(rest) if semicolon else {}
    return ContentType(name.strip().lower(), headers.get(_LENGTH) or more.get(SIZE_PARAMETER), more.get("header"))


def _compressed(said: str) -> int:
    """How zlib calls a Content-Encoding; 0 for none."""
    encoding = said.strip().lower()
    if encoding not in _ENCODINGS:
        raise UnsupportedMediaType(
            f"the body's Content-Encoding is {encoding}", hint="Send it as it is, or as gzip or deflate."
        )
    return _ENCODINGS[encoding]


def _parameters(text: str) -> dict[str, str]:
    """What follows a content type: `header=present; charset=utf-8`."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _has_header(said: str) -> bool:
    if said.lower() not in _HEADER:
        raise InvalidTable(f"the content type's header is {said[:40]!r}; it may be {' or '.join(_HEADER)}")
    return _HEADER[said.lower()]


def _json_length(said: str, size: int) -> int:
    if not said.isascii() or not said.isdigit() or len(said) > 12 or int(said) > size:
        raise InvalidTensor(f"{LENGTH_HEADER} is {said[:40]!r}, and the body has {size} bytes")
    return int(said)
