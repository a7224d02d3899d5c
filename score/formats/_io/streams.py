"""Files that are compressed as a whole: how each way is told, and what reads it.

Sources: RFC 1950 (zlib), RFC 1952 (gzip), RFC 8878 (zstandard).
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Stream:
    """One way to compress a file: how it is told, what is added to its name, and what reads it."""

    name: str
    magic: bytes
    suffixes: dict[str, str]
    open: Callable[[BinaryIO], Any]

    def name_inside(self, name: str) -> str:
        """What a file is called that is in one of this name."""
        for suffix, left in self.suffixes.items():
            if name.lower().endswith(suffix) and len(name) > len(suffix):
                return name[: -len(suffix)] + left
        return name


class _Zstandard:
    """zstandard, frame after frame. Its own reader takes the end of a file that is cut short for the end of its
    content; this one raises `EOFError`. A piece is at most 1 kB, so that what comes of it is bounded (16 MB)."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard  # only where it is met

        self._file, self._left = io.BufferedReader(file), b""  # type: ignore[type-var]  # it is raw
        self._new = partial(zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj)
        self._frame, self._error = self._new(), zstandard.ZstdError

    def read(self, _count: int) -> bytes:
        """The next bytes, however many; none at the end."""
        while True:
            piece = self._left or self._file.read(1024)
            if self._frame.eof and piece:
                self._frame = self._new()
            if not piece:
                if not self._frame.eof:
                    raise EOFError("a zstandard frame without its end")
                return b""
            try:
                content: bytes = self._frame.decompress(piece)
            except self._error as error:
                raise ValueError(str(error)) from None
            self._left = self._frame.unused_data if self._frame.eof else b""
            if content:
                return content

    def close(self) -> None:
        self._file.close()


class _Zlib:
    """A bare zlib stream, as joblib compresses. One that is cut short raises `EOFError`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._stream, self._left = file, zlib.decompressobj(), b""

    def read(self, count: int) -> bytes:
        """The next bytes, at most so many; none at the end."""
        while not self._stream.eof:
            piece = self._left or self._file.read(1 << 16)
            content = self._stream.decompress(piece, count)
            self._left = self._stream.unconsumed_tail
            if content:
                return content
            if not piece:
                raise EOFError("a zlib stream without its end")
        return b""

    def close(self) -> None:
        self._file.close()


_TAR = {".tgz": ".tar", ".tbz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".tzst": ".tar"}
STREAMS = (
    Stream("gzip", b"\x1f\x8b", {".gz": "", ".gzip": "", **_TAR}, lambda file: gzip.GzipFile(fileobj=file)),
    Stream("bzip2", b"BZh", {".bz2": "", ".bz": "", **_TAR}, bz2.BZ2File),
    Stream("xz", b"\xfd7zXZ\x00", {".xz": "", **_TAR}, lzma.LZMAFile),
    *(Stream("zlib", b"x" + level, {".z": "", ".zlib": ""}, _Zlib) for level in (b"\x01", b"\x5e", b"\x9c", b"\xda")),
    Stream("zstandard", b"\x28\xb5\x2f\xfd", {".zst": "", ".zstd": "", **_TAR}, _Zstandard),
)


def stream_of(head: bytes) -> Stream | None:
    """How a file is compressed as a whole, by its first bytes; None where it is not."""
    return next((kind for kind in STREAMS if head.startswith(kind.magic)), None)
