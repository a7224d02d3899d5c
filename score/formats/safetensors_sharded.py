"""`safetensors-sharded`: `*.safetensors.index.json` beside the files that it names."""

from pathlib import Path

from score.formats import safetensors, shards
from score.formats.base import Checkpoint
from score.formats.probe import Probe

NAME = "safetensors-sharded"
PRIORITY = 0
SERVABLE = True
SUFFIX = ".safetensors.index.json"


def detect(probe: Probe) -> bool:
    return not shards.described(probe) and shards.index(probe, SUFFIX) is not None


def open(path: Path, read: str) -> Checkpoint:
    return shards.open_index(path, SUFFIX, read, NAME, safetensors.open)
