"""`torch-package`: torch.package, an archive of pickles with the Python code that they need.

Its weights are read without the code. Serving it as it is runs that code: only when trusted.
Source: torch/package/package_importer.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from score.errors import MalformedFile, TruncatedFile
from score.formats._io.source import Source
from score.formats._io.zip import Archive
from score.formats._pickle.read import FindStorage, read_pickle
from score.formats._pickle.rebuild import StorageRef
from score.formats.base import Checkpoint, PickledObjects
from score.formats.probe import Probe

NAME = "torch-package"
PRIORITY = 0
SERVABLE = True


def detect(probe: Probe) -> bool:
    return probe.has(".data/extern_modules")


def open(path: Path, read: str) -> Checkpoint:
    """All pickles by their place (`package/resource.pkl`); where there is one, its content alone."""
    archive = Archive(Source(path, read))
    find = _storages(archive)
    records = [name for name in archive.names() if name.endswith(".pkl") and not name.startswith(".data/")]
    pickles = {name: read_pickle(archive.bytes(name), find, name=f"{path.name}:{name}") for name in records}
    if not pickles:
        raise MalformedFile(f"{path.name}: a torch.package archive without a pickle")
    code = [name for name in archive.names() if name.endswith(".py")]
    unsafe = dict.fromkeys(name for pickled in pickles.values() for name in pickled.unsafe)
    only = next(iter(pickles.values())).value if len(pickles) == 1 else None
    tree = only if only is not None else {name: pickled.value for name, pickled in pickles.items()}

    def load_trusted() -> Any:
        from torch.package.package_importer import PackageImporter

        importer = PackageImporter(str(path))
        found = {}
        for record in records:
            package, _, resource = record.rpartition("/")
            found[record] = importer.load_pickle(package.replace("/", "."), resource, map_location="cpu")
        return found[records[0]] if only is not None else found

    return PickledObjects(
        NAME,
        path,
        tree,
        load_trusted=load_trusted,
        unsafe_globals=tuple(unsafe),
        metadata={"pickles": records, "code": code},
    )


def _storages(archive: Archive) -> FindStorage:
    def find(key: str, dtype: str, nbytes: int) -> StorageRef:
        record = f".data/{key}.storage"
        if record not in archive:
            raise MalformedFile(f"{archive.path.name}: the storage {key!r} is not in the archive")
        if archive.size(record) < nbytes:
            raise TruncatedFile(f"{archive.path.name}: the storage {key!r} is shorter than {nbytes:,} bytes")
        return StorageRef(dtype, archive.size(record), lambda: archive.storage(record), archive.content(record))

    return find
