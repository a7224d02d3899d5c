"""Bytes of a file, or of a window of it, brought in by mapping or by reading.

Mapping costs nothing until a page is touched, and pages are shared between processes. On a network mount each touched
page is a round trip, so there the bytes are read in one go.
"""

from __future__ import annotations

import copy
import io
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch

from score.errors import ForeignFormat, ModelDirUnreadable, TruncatedFile
from score.formats._io import placed
from score.formats._io.placed import Place

NETWORK_FILE_SYSTEMS = ("fuse", "nfs", "cifs", "smb", "9p", "ceph", "lustre", "afs", "gluster")


class Source:
    """The bytes of a file, kept open; or, by `window`, of a part of it. Offsets count from where it starts.

    `read` is `auto`, `mmap` or `read` (the setting `SCORE_READ`).
    """

    def __init__(self, path: Path, read: str = "auto") -> None:
        place = placed.of(path)
        self.path, self.name, self.start = path, path.name, place.start
        self._opened = _Opened(place.path)
        self.size = self._opened.size if place.size is None else place.size
        refuse_pointer(path, self.bytes(0, min(len(POINTER), self.size)))
        self.mapped = read == "mmap" or (read == "auto" and not on_network_mount(path))

    def window(self, start: int, size: int, name: str = "") -> Source:
        """`size` bytes from `start`, as a source of its own on the same open file."""
        self.check(start, size, name or "a part")
        part = copy.copy(self)
        part.start, part.size, part.name = self.start + start, size, name or self.name
        return part

    @property
    def _map(self) -> mmap.mmap:
        return self._opened.map

    def view(self) -> memoryview | mmap.mmap:
        """The bytes, to be read from where needed. Only the pages that are touched are brought in."""
        if self.size == 0:
            return memoryview(b"")
        whole = self.start == 0 and self.size == len(self._map)
        return self._map if whole else memoryview(self._map)[self.start : self.start + self.size]

    def file(self) -> BinaryIO:
        """The bytes as a file, for libraries that want one."""
        return _Positioned(self)  # type: ignore[return-value]  # a BinaryIO in all that matters

    @property
    def place(self) -> Place:
        """Which file has the bytes, and where."""
        return Place(self._opened.path, self.start, self.size)

    def check(self, offset: int, nbytes: int, what: str) -> None:
        """Raise `TruncatedFile` unless the range lies in the file."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise TruncatedFile(
                f"{self.name}: {what} takes bytes {offset:,} to {offset + nbytes:,}, but the file has {self.size:,}"
            )

    def bytes(self, offset: int, nbytes: int) -> bytes:
        """The bytes of a range, copied."""
        self.check(offset, nbytes, "a record")
        return os.pread(self._opened.descriptor, nbytes, self.start + offset)

    def into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer with the bytes from `offset`, as many as there are; how many these were."""
        count = max(0, min(len(buffer), self.size - offset))
        return os.preadv(self._opened.descriptor, [buffer[:count]], self.start + offset) if count else 0

    def content(self, offset: int, nbytes: int) -> memoryview:
        """The bytes of a range where they are mapped."""
        self.check(offset, nbytes, "a tensor's storage")
        return memoryview(self.view())[offset : offset + nbytes]

    def storage(self, offset: int, nbytes: int) -> torch.UntypedStorage:
        """The bytes of a range as a torch storage: a view of the mapping, or a copy that was read."""
        self.check(offset, nbytes, "a tensor's storage")
        if nbytes == 0:
            return torch.UntypedStorage(0)
        if self.mapped:
            view = torch.frombuffer(self._map, dtype=torch.uint8, count=nbytes, offset=self.start + offset)
            return view.untyped_storage()
        buffer = torch.empty(nbytes, dtype=torch.uint8)
        window = memoryview(buffer.numpy()).cast("B")  # type: ignore[arg-type]  # numpy's stubs lag
        done = 0
        while done < nbytes:
            place = self.start + offset + done
            got = os.preadv(self._opened.descriptor, [window[done : done + (1 << 30)]], place)
            if got == 0:
                raise TruncatedFile(f"{self.name}: the file shrank while it was read")
            done += got
        return buffer.untyped_storage()


POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path, head: bytes) -> None:
    """Raise `ForeignFormat` for what git leaves in the place of a large file where git-lfs did not fetch it."""
    if head.startswith(POINTER):
        raise ForeignFormat(
            f"{path.name} is a git-lfs pointer, not the file it points to",
            hint="Run `git lfs pull` where the folder comes from, and register the real files.",
        )


class _Opened:
    """An open file; closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path) as descriptor:
            self.descriptor = os.dup(descriptor)
        self.size = os.fstat(self.descriptor).st_size

    @cached_property
    def map(self) -> mmap.mmap:
        # Copy-on-write: torch wants writable memory, and the file must never change.
        return mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # the module may be gone when Python ends
        if hasattr(self, "descriptor"):
            close(self.descriptor)


class _Positioned(io.RawIOBase):
    """A source as a file with a position of its own, since a shared descriptor has but one."""

    def __init__(self, source: Source) -> None:
        self.source, self.position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = max(0, offset + (0, self.position, self.source.size)[whence])
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = self.source.into(memoryview(buffer).cast("B"), self.position)
        self.position += count
        return count


def as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """A storage as a tensor of its bytes, not copied."""
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload, no-any-return]


def resolved(path: Path) -> Path | None:
    """Where a path leads, through all links; None where these go in a circle, or it holds what no path can."""
    try:
        return path.resolve()
    except (RuntimeError, OSError, ValueError):
        return None


def in_memory(content: BinaryIO, name: str) -> tuple[Path, BinaryIO]:
    """Content as a path that can be opened and mapped, without writing to any disk; it lives as long as the file object
    that comes with it (Linux). Elsewhere it is a temporary file."""
    if sys.platform == "linux":
        file: BinaryIO = os.fdopen(os.memfd_create(name), "w+b")
        path = Path(f"/proc/self/fd/{file.fileno()}")
    else:
        file = tempfile.NamedTemporaryFile(prefix="score-")  # noqa: SIM115  # closed with its owner
        path = Path(file.name)
    while chunk := content.read(1 << 20):
        file.write(chunk)
    file.flush()
    return path, file


@contextmanager
def readable(path: Path) -> Iterator[int]:
    """A file descriptor to read `path` with; raises `ModelDirUnreadable` if this user may not."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        raise ModelDirUnreadable(f"{path}: this user (uid {os.getuid()}) may not read the file") from None
    except OSError as error:  # a link in a circle, a name that is too long, a file that has gone
        raise ModelDirUnreadable(f"{path}: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def on_network_mount(path: Path) -> bool:
    """Whether the file lies on a network or FUSE file system, by the longest mount point above it (Linux)."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    path = placed.of(path).path
    real, best, kind = str(resolved(path) or path), "", ""
    for line in mounts:
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, name
    return kind.startswith(NETWORK_FILE_SYSTEMS)
