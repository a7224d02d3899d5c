"""SHA-256 of files and folders: what trust and SHA256SUMS go by, and whether it still holds when all is loaded."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from score.errors import ChecksumMismatch
from score.formats._io import parts, placed


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    begun = _BEGUN.pop(path.resolve(), None)
    _seen.setdefault(path, _identity(path) if begun is None else begun[2])
    if begun is not None:
        thread, found, _ = begun
        thread.join()
        if found:
            return found[0]
    return _digest(path, piece=1 << 18)


def _digest(*files: Path, piece: int) -> str:
    """Hash `piece` bytes at a time: few fit into the processor's cache, many leave the interpreter to other threads."""
    digest, buffer = hashlib.sha256(), bytearray(min(piece, max(1, *(file.stat().st_size for file in files))))
    for path in files:
        left, place = path.stat().st_size, placed.of(path)
        with place.path.open("rb", buffering=0) as file:
            file.seek(place.start)
            while left > 0 and (count := file.readinto(memoryview(buffer)[:left])):
                digest.update(memoryview(buffer)[:count])
                left -= count
    return digest.hexdigest()


_BEGUN: dict[Path, tuple[threading.Thread, list[str], tuple[int, ...] | None]] = {}
WORTH_A_THREAD = 50_000_000  # bytes


def begin_sha256(path: Path) -> None:
    """Begin to hash a large file, or the largest one in a folder, while the caller imports torch; `file_sha256` then
    only waits for the rest. What goes wrong here goes wrong again there, and is reported there."""
    try:
        files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
        largest = max(files, key=lambda file: file.stat().st_size, default=None)
        if largest is None or largest.stat().st_size < WORTH_A_THREAD:
            return
    except OSError:
        return
    found: list[str] = []

    def work() -> None:
        with contextlib.suppress(OSError):
            found.append(_digest(largest, piece=32 << 20))

    before = _identity(largest)
    thread = threading.Thread(target=work, daemon=True)  # a refused file is not waited for
    thread.start()
    _BEGUN[largest.resolve()] = (thread, found, before)


def sha256(path: Path) -> str:
    """A file's digest, that of the whole for one that is cut into parts; for a folder, that of the names, sizes and
    contents of all that is in it, links by where they lead. Each part is preceded by its length, so that no two folders
    give the same bytes."""
    if cut := parts.of(path):
        for each in cut:
            _seen.setdefault(each, _identity(each))
        return _digest(*cut, piece=1 << 18)
    if not path.is_dir():
        return file_sha256(path)
    whole = hashlib.sha256(b"folder 2\n")
    for name, item in sorted((os.fsencode(item.relative_to(path)), item) for item in path.rglob("*")):
        if item.is_symlink():
            _put(whole, b"link", name, os.fsencode(item.readlink()))
        if item.is_file():
            _put(whole, b"file", name, str(item.stat().st_size).encode(), file_sha256(item).encode())
    return whole.hexdigest()


def _put(whole: Any, *parts: bytes) -> None:
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)


_seen: dict[Path, tuple[int, ...] | None] = {}  # files whose digest was taken, as they were then


@contextmanager
def kept() -> Iterator[None]:
    """Files whose digest is taken within, or was taken for it, are the same when this ends. Raises `ChecksumMismatch`:
    what was trusted or listed is not what was loaded."""
    _seen.clear()
    yield
    changed = [path for path, before in _seen.items() if before is not None and _identity(path) != before]
    _seen.clear()
    if changed:
        raise ChecksumMismatch(
            f"{changed[0].name} changed after its digest was taken, while it was loaded",
            hint="Load it again, from a place where nothing writes to it.",
        )


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
