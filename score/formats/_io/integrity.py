"""The checksums that an archive has of its records, checked beside the loading.

A record that is mapped is read by nobody before it is served, so a flipped bit would be an answer. Checksums take as
long as it takes to read the file once; that goes on in threads while the module is built.
"""

import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from score.errors import MalformedFile
from score.formats._io.source import as_bytes

THREADS = 4
_pool: ThreadPoolExecutor | None = None


class _Pending(threading.local):
    """What is being checked, of the thread that brings it in."""

    def __init__(self) -> None:
        self.records: list[tuple[Future[int], int, str]] = []


_pending = _Pending()


def later(storage: torch.UntypedStorage, crc: int, what: str) -> None:
    """Have a storage's bytes checked against a CRC-32; `what` says whose they are."""
    global _pool
    _pool = _pool or ThreadPoolExecutor(THREADS, thread_name_prefix="checksums")
    view = memoryview(as_bytes(storage).numpy()).cast("B")  # type: ignore[arg-type]  # numpy's stubs lag
    _pending.records.append((_pool.submit(zlib.crc32, view), crc, what))


def require(content: bytes, crc: int, what: str) -> None:
    """Raise `MalformedFile` for bytes of another CRC-32."""
    _compare(zlib.crc32(content), crc, what)


@contextmanager
def checked() -> Iterator[None]:
    """What is brought in within is whole when this ends. Raises `MalformedFile` for the first record that is not."""
    _pending.records.clear()
    yield
    try:
        for found, crc, what in _pending.records:
            _compare(found.result(), crc, what)
    finally:
        _pending.records.clear()


def _compare(found: int, crc: int, what: str) -> None:
    if found != crc:
        raise MalformedFile(f"{what} is damaged: its checksum is {found:08x}, and the archive says {crc:08x}")
