"""A zip archive whose stored records can be mapped. Names, sizes and offsets are checked before any is used."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch

from score.errors import MalformedFile, TruncatedFile
from score.formats._io import integrity
from score.formats._io.source import Source, in_memory, on_network_mount

# What torch compresses is source code and debug information; weights are stored as they are.
MAX_INFLATED = 256 << 20
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others are inflated without a limit
MAX_RATIO = 1100  # deflate can't do better than 1:1032
MAX_EXTRACTED_RATIO, SMALL = 20, 16 << 20  # weights hardly compress; a small file may, whatever it is


def directory(source: Source) -> list[zipfile.ZipInfo]:
    """The directory of a zip, without its folders. Raises `TruncatedFile`.

    An archive that is cut short can end in a whole one that was inside of it; Python would read that, so the first
    record has to be where the file starts.
    """
    try:
        with source.file() as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except Exception as error:  # noqa: BLE001  # a damaged directory makes zipfile raise anything
        raise TruncatedFile(f"{source.name}: a zip archive cut short or damaged ({error})") from None
    if infos and min(info.header_offset for info in infos) != 0:
        raise TruncatedFile(f"{source.name}: a zip archive cut short: only one that lies inside of it is whole")
    return [info for info in infos if not info.filename.endswith("/")]


class Archive:
    """The records of a zip, by their name below the archive's top folder. Raises `MalformedFile`, `TruncatedFile`."""

    def __init__(self, source: Source) -> None:
        self.path, self.source = source.path, source
        self.entries: dict[str, zipfile.ZipInfo] = {}
        names: set[str] = set()
        for info in directory(source):
            if info.filename.lower() in names:  # as torch's own reader compares them
                raise MalformedFile(f"{source.name}: two records are named {info.filename!r}")
            names.add(info.filename.lower())
            parts = PurePosixPath(info.filename).parts
            if info.filename.startswith("/") or ".." in parts or "\\" in info.filename:
                raise MalformedFile(f"{source.name}: a record is named {info.filename!r}, which leaves the archive")
            if info.compress_type not in _BOUNDED:
                raise MalformedFile(
                    f"{source.name}: the record {info.filename!r} is compressed in another way than torch and numpy do"
                )
            self.entries[info.filename] = info
        # torch can be told to write none (set_crc32_options)
        self._has_checksums = any(info.CRC for info in self.entries.values())
        self._refuse_overlaps()

    def _refuse_overlaps(self) -> None:
        end = 0
        for info in sorted(self.entries.values(), key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise MalformedFile(f"{self.path.name}: the record {info.filename!r} overlaps the one before it")
            end = info.header_offset + 30 + len(info.filename.encode()) + info.compress_size

    @cached_property
    def root(self) -> str:
        """The top folder that all records are in, with its slash; empty if there is none."""
        tops = {name.partition("/")[0] for name in self.entries if "/" in name}
        return f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in self.entries) else ""

    def __contains__(self, name: str) -> bool:
        return self.root + name in self.entries

    def names(self) -> list[str]:
        """Record names below the top folder, in the order of the archive."""
        return [name.removeprefix(self.root) for name in self.entries]

    def size(self, name: str, *, whole: bool = False) -> int:
        """A record's length in bytes. `whole` takes the name as the archive has it, with its top folder."""
        return self._info(name, whole=whole).file_size

    def _info(self, name: str, *, whole: bool = False) -> zipfile.ZipInfo:
        info = self.entries.get(name if whole else self.root + name)
        if info is None:
            raise MalformedFile(f"{self.path.name}: the record {name!r} is missing")
        return info

    def _called(self, info: zipfile.ZipInfo) -> str:
        return f"the record {info.filename!r} of {self.source.name}"

    def offset(self, info: zipfile.ZipInfo) -> int:
        """Where a record's bytes start: after its local header, whose lengths may differ from the directory's."""
        header = self.source.bytes(info.header_offset, 30)
        signature, name_length, extra_length = struct.unpack("<4s22xHH", header)
        if signature != b"PK\x03\x04":
            raise MalformedFile(f"{self.path.name}: no record where the directory says {info.filename!r} is")
        return info.header_offset + 30 + int(name_length) + int(extra_length)

    def head(self, name: str, count: int) -> bytes:
        """At most the first `count` bytes of a record, by its whole name."""
        info = self._info(name, whole=True)
        if info.compress_type == zipfile.ZIP_STORED:
            return self.source.bytes(self.offset(info), min(count, info.file_size))
        start: bytes = self._inflated(info, count)
        return start

    def bytes(self, name: str, *, whole: bool = False) -> bytes:
        """A record's content, inflated if it is compressed."""
        info = self._info(name, whole=whole)
        if info.compress_type == zipfile.ZIP_STORED:
            stored = self.source.bytes(self.offset(info), info.file_size)
            if self._has_checksums:
                integrity.require(stored, info.CRC, self._called(info))
            return stored
        if info.file_size > MAX_INFLATED or info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise MalformedFile(
                f"{self.path.name}: the record {name!r} claims to inflate from {info.compress_size:,} to "
                f"{info.file_size:,} bytes"
            )
        content: bytes = self._inflated(info, info.file_size + 1)
        if len(content) != info.file_size:
            raise MalformedFile(f"{self.path.name}: the record {name!r} is not as long as it claims")
        return content

    def _inflated(self, info: zipfile.ZipInfo, count: int) -> Any:
        try:
            with self.source.file() as file, zipfile.ZipFile(file) as archive, archive.open(info) as record:
                return record.read(count)
        except Exception as error:  # noqa: BLE001  # zipfile raises anything on damaged data: zlib.error, RuntimeError...
            raise MalformedFile(f"{self.path.name}: {info.filename!r} can't be inflated ({error})") from None

    def extracted(self, name: str) -> tuple[Path, BinaryIO]:
        """A record as a file in memory, for what can only be opened by path; see `in_memory`."""
        info = self._info(name)
        if info.file_size > max(MAX_EXTRACTED_RATIO * info.compress_size, SMALL):
            raise MalformedFile(f"{self.path.name}: the record {name!r} claims to inflate to {info.file_size:,} bytes")
        try:
            with self.source.file() as file, zipfile.ZipFile(file) as archive, archive.open(info) as record:
                return in_memory(record, name.rpartition("/")[2])  # type: ignore[arg-type]  # it has read()
        except Exception as error:  # noqa: BLE001  # zipfile raises anything on damaged data
            raise MalformedFile(f"{self.path.name}: the record {name!r} can't be read ({error})") from None

    def window(self, name: str) -> Source:
        """A record that is stored as it is, as a source of its own. Raises `MalformedFile` for another."""
        info = self._info(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise MalformedFile(f"{self.path.name}: the record {name!r} is compressed")
        return self.source.window(self.offset(info), info.file_size, name)

    def content(self, name: str) -> Callable[[], memoryview] | None:
        """How to have a record's bytes where they are mapped; None for one that is compressed."""
        stored = self._info(name).compress_type == zipfile.ZIP_STORED
        return (lambda: memoryview(self.window(name).view())) if stored else None

    def text(self, name: str) -> str:
        return self.bytes(name).decode("utf-8", "replace").strip()

    @cached_property
    def _far(self) -> bool:
        return self.source.mapped and on_network_mount(self.path)

    def storage(self, name: str, *, whole: bool = False) -> torch.UntypedStorage:
        """A record's content as a torch storage; mapped unless it is compressed."""
        info = self._info(name, whole=whole)
        if info.compress_type == zipfile.ZIP_STORED:
            stored = self.source.storage(self.offset(info), info.file_size)
            if self._has_checksums and info.file_size:
                integrity.later(stored, info.CRC, self._called(info), far=self._far)
            return stored
        content: Any = bytearray(self.bytes(name, whole=whole))
        return torch.frombuffer(content, dtype=torch.uint8).untyped_storage() if content else torch.UntypedStorage(0)
