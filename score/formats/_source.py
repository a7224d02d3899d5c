"""Bytes of a file, brought in by mapping or by reading.

Mapping costs nothing until a page is touched, and pages are shared between processes. On a network mount each touched
page is a round trip, so there the bytes are read in one go.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch

from score.errors import ModelDirUnreadable, TruncatedFile

NETWORK_FILE_SYSTEMS = ("fuse", "nfs", "cifs", "smb", "9p", "ceph", "lustre", "afs", "gluster")


class Source:
    """The bytes of one file. `read` is `auto`, `mmap` or `read` (the setting `SCORE_READ`)."""

    def __init__(self, path: Path, read: str = "auto") -> None:
        self.path = path
        self.size = path.stat().st_size
        self.mapped = read == "mmap" or (read == "auto" and not on_network_mount(path))

    @cached_property
    def _map(self) -> mmap.mmap:
        # Copy-on-write: torch wants writable memory, and the file must never change.
        with readable(self.path) as descriptor:
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)

    def view(self) -> mmap.mmap:
        """The whole file, to be read from where needed. Only the pages that are touched are brought in."""
        return self._map

    def check(self, offset: int, nbytes: int, what: str) -> None:
        """Raise `TruncatedFile` unless the range lies in the file."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise TruncatedFile(
                f"{self.path.name}: {what} takes bytes {offset:,} to {offset + nbytes:,}, "
                f"but the file has {self.size:,}"
            )

    def bytes(self, offset: int, nbytes: int) -> bytes:
        """The bytes of a range, copied."""
        self.check(offset, nbytes, "a record")
        with readable(self.path) as descriptor:
            return os.pread(descriptor, nbytes, offset)

    def storage(self, offset: int, nbytes: int) -> torch.UntypedStorage:
        """The bytes of a range as a torch storage: a view of the mapping, or a copy that was read."""
        self.check(offset, nbytes, "a tensor's storage")
        if nbytes == 0:
            return torch.UntypedStorage(0)
        if self.mapped:
            view = torch.frombuffer(self._map, dtype=torch.uint8, count=nbytes, offset=offset)
            return view.untyped_storage()
        buffer = torch.empty(nbytes, dtype=torch.uint8)
        window, done = memoryview(buffer.numpy()).cast("B"), 0  # type: ignore[arg-type]  # numpy's stubs lag
        with readable(self.path) as descriptor:
            while done < nbytes:
                got = os.preadv(descriptor, [window[done : done + (1 << 30)]], offset + done)
                if got == 0:
                    raise TruncatedFile(f"{self.path.name}: the file shrank while it was read")
                done += got
        return buffer.untyped_storage()


@contextmanager
def readable(path: Path) -> Iterator[int]:
    """A file descriptor to read `path` with; raises `ModelDirUnreadable` if this user may not."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        raise ModelDirUnreadable(f"{path}: this user (uid {os.getuid()}) may not read the file") from None
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
    real, best, kind = str(path.resolve()), "", ""
    for line in mounts:
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, name
    return kind.startswith(NETWORK_FILE_SYSTEMS)
