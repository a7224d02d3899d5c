"""`torch-zip`: torch.save since 1.6. A zip with `data.pkl` and one record per storage in `data/`.

The records are stored, not compressed, so each storage is mapped where it lies. Source: torch/serialization.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from score.errors import MalformedFile, TruncatedFile, VersionTooOld
from score.formats._io.source import Source
from score.formats._io.zip import Archive
from score.formats._pickle.read import FindStorage, Pickled, foreign_byte_order, metadata, read_pickle, swapped
from score.formats._pickle.rebuild import StorageRef
from score.formats._pickle.trusted import Trusted
from score.formats.base import Checkpoint, PickledObjects
from score.formats.probe import Probe

NAME = "torch-zip"
PRIORITY = 0
SERVABLE = True
NEWEST_VERSION = 10  # caffe2/serialize/versions.h, kMaxSupportedFileFormatVersion


def detect(probe: Probe) -> bool:
    return probe.has("data.pkl") and not probe.has("constants.pkl") and not probe.has(".data/extern_modules")


def open(path: Path, read: str) -> Checkpoint:
    archive = Archive(Source(path, read))
    pickled, again = read_archive(archive)
    return PickledObjects(
        NAME,
        path,
        pickled.value,
        load_trusted=again,
        unsafe_globals=pickled.unsafe,
        metadata={"devices": list(pickled.locations), **metadata(pickled.value)},
    )


def read_archive(archive: Archive) -> tuple[Pickled, Callable[[], Any]]:
    """The content of one torch.save archive, and how to read it again with its classes imported."""
    require_version(archive)
    find, name = storages(archive), f"{archive.path.name}:data.pkl"
    pickled = read_pickle(archive.bytes("data.pkl"), find, name=name)

    def load_trusted() -> Any:
        return read_pickle(archive.bytes("data.pkl"), find, name=name, policy=Trusted(pickled.unsafe)).value

    return pickled, load_trusted


def require_version(archive: Archive) -> None:
    """Raise `VersionTooOld` for an archive of a newer torch."""
    text = version_of(archive)
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise MalformedFile(f"{archive.path.name}: the archive's version is {text[:40]!r}")
    if text and int(text) > NEWEST_VERSION:
        raise VersionTooOld(
            f"{archive.path.name}: archive version {text}, but torch {torch.__version__} reads up to {NEWEST_VERSION}",
            hint="Use a newer torch (see requirements.lock), or save the file again with the version used here.",
        )


def version_of(archive: Archive) -> str | None:
    """What an archive's version record says, unchecked, or None when it has none."""
    record = next((name for name in (".data/version", "version") if name in archive), None)
    return archive.text(record) if record else None


def storages(archive: Archive, folder: str = "data/") -> FindStorage:
    """Where an archive keeps the storages that its pickle names."""
    swap = foreign_byte_order(archive.text("byteorder") if "byteorder" in archive else "")

    def find(key: str, dtype: str, nbytes: int) -> StorageRef:
        record = folder + key
        if record not in archive:
            raise MalformedFile(f"{archive.path.name}: the pickle names a storage {key!r} that is not in the archive")
        if archive.size(record) < nbytes:
            raise TruncatedFile(
                f"{archive.path.name}: the storage {key!r} has {archive.size(record):,} bytes instead of {nbytes:,}"
            )

        def fetch() -> torch.UntypedStorage:
            raw = archive.storage(record)
            return swapped(raw, dtype) if swap else raw

        return StorageRef(dtype, archive.size(record), fetch, None if swap else archive.content(record))

    return find
