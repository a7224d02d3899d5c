"""`torch-legacy`: torch.save from 0.1.10 to 1.5, and later with `_use_new_zipfile_serialization=False`.

torch reads all of it; here each storage is mapped where it lies.
"""

from pathlib import Path

from score.formats._io.source import Source
from score.formats._pickle import legacy
from score.formats._pickle.read import metadata
from score.formats.base import Checkpoint, PickledObjects
from score.formats.probe import Probe

NAME = "torch-legacy"
PRIORITY = 0
SERVABLE = True


def detect(probe: Probe) -> bool:
    return legacy.starts(probe.head)


def open(path: Path, read: str) -> Checkpoint:
    source = Source(path, read)
    content, load_trusted = legacy.read_legacy(source.view(), path.name, source.storage)
    return PickledObjects(
        NAME,
        path,
        content.value,
        load_trusted=load_trusted,
        unsafe_globals=content.unsafe,
        metadata={"devices": list(content.locations), **metadata(content.value)},
    )
