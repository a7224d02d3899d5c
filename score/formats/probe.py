"""What the detectors look at: the first bytes of a file, or the names inside an archive. Never the extension."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from score.errors import TruncatedFile
from score.formats._io import placed
from score.formats._io.source import Source, readable
from score.formats._io.zip import directory

HEAD_BYTES = 4096


@dataclass(frozen=True)
class Probe:
    """A path seen through its content."""

    path: Path

    @cached_property
    def is_dir(self) -> bool:
        return self.path.is_dir()

    @cached_property
    def size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` of a file; empty for a folder."""
        if self.is_dir:
            return b""
        place = placed.of(self.path)
        with readable(place.path) as descriptor:
            return os.pread(descriptor, min(HEAD_BYTES, self.size), place.start)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names in a zip archive; empty for anything else, and for an archive that is cut short."""
        if not self.head.startswith(b"PK\x03\x04"):
            return frozenset()
        try:
            return frozenset(info.filename for info in directory(Source(self.path)))
        except TruncatedFile:
            return frozenset()

    def member(self, name: str) -> str | None:
        """The full name of `name` in the archive, at the root or in its one top folder, as torch writes it."""
        return next((full for full in self.names if full == name or full.partition("/")[2] == name), None)

    def has(self, *names: str) -> bool:
        """Whether the archive holds all of `names` (each at the root or in the top folder)."""
        return all(self.member(name) is not None for name in names)

    def has_under(self, folder: str) -> bool:
        """Whether the archive holds anything in `folder/`, at the root or in its top folder."""
        return any(f"{name}/".startswith(f"{folder}/") or f"/{folder}/" in f"/{name}" for name in self.names)
