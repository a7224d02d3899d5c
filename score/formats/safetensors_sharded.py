"""`safetensors-sharded`: `*.safetensors.index.json` beside the files that it names."""

from pathlib import Path

from score.formats import _shards, safetensors
from score.formats.contents import Contents
from score.formats.probe import Probe

NAME = "safetensors-sharded"
SUFFIX = ".safetensors.index.json"


def detect(probe: Probe) -> bool:
    return not _shards.described(probe) and _shards.index(probe, SUFFIX) is not None


def open(path: Path, read: str) -> Contents:
    return _shards.open_index(path, SUFFIX, read, NAME, safetensors.open)
