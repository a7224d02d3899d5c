"""The checksums that an archive has of its records, checked beside the loading.

A record that is mapped is read by nobody before it is served, so a flipped bit would be an answer. Checksums take as
long as it takes to read the file once; that goes on in threads while the module is built.
"""

from __future__ import annotations

import contextlib
import threading
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from score.errors import LoadError, MalformedFile
from score.formats._io.source import Source, as_bytes

THREADS = 4
_pool: ThreadPoolExecutor | None = None


class _Pending(threading.local):
    """What is being checked, of the thread that brings it in."""

    def __init__(self) -> None:
        self.records: list[tuple[Future[int], int, str]] = []
        self.verify = "auto"


_pending = _Pending()


def later(storage: torch.UntypedStorage, crc: int, what: str, *, far: bool = False) -> None:
    """Have a storage's bytes checked against a CRC-32; `what` says whose they are. What is mapped from `far` away, a
    network mount, would be fetched for it: that is done only where it is asked for."""
    global _pool
    if _pending.verify == "never" or (far and _pending.verify == "auto"):
        return
    _pool = _pool or ThreadPoolExecutor(THREADS, thread_name_prefix="checksums")
    view = memoryview(as_bytes(storage).numpy()).cast("B")  # type: ignore[arg-type]  # numpy's stubs lag
    _pending.records.append((_pool.submit(zlib.crc32, view), crc, what))


def require(content: bytes, crc: int, what: str) -> None:
    """Raise `MalformedFile` for bytes of another CRC-32."""
    _compare(zlib.crc32(content), crc, what)


@contextmanager
def checked(verify: str = "auto") -> Iterator[None]:
    """What is brought in within is whole when this ends, as far as SCORE_VERIFY says. Raises `MalformedFile` for the
    first record that is not."""
    _pending.records.clear()
    _pending.verify = verify
    yield
    try:
        for found, crc, what in _pending.records:
            _compare(found.result(), crc, what)
    finally:
        _pending.records.clear()


def _compare(found: int, crc: int, what: str) -> None:
    if found != crc:
        raise MalformedFile(
            f"{what} is damaged: its checksum is {found:08x}, and the archive says {crc:08x}",
            hint="Copy the file again from where it was saved, and compare the two by sha256sum.",
        )


def damaged(path: Path) -> list[str]:
    """The stored records of a zip archive whose bytes are not those that their checksums were made of; none for a file
    that is no archive, or has no checksums."""
    found = []
    with (
        contextlib.suppress(OSError, zipfile.BadZipFile, ValueError, LoadError),
        zipfile.ZipFile(Source(path).file()) as archive,
    ):
        infos = archive.infolist()
        for info in infos if any(info.CRC for info in infos) else ():
            try:
                with archive.open(info) as record:
                    while record.read(1 << 20):
                        pass
            except Exception:  # noqa: BLE001  # zipfile raises anything on damaged data
                found.append(info.filename)
    return found
