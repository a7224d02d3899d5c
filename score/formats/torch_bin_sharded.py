"""`torch-bin-sharded`: `pytorch_model.bin.index.json` beside the torch.save files that it names."""

from pathlib import Path

from score.formats import shards, torch_legacy, torch_zip
from score.formats.base import Checkpoint
from score.formats.probe import Probe

NAME = "torch-bin-sharded"
PRIORITY = 0
SERVABLE = True
SUFFIX = ".bin.index.json"


def detect(probe: Probe) -> bool:
    if shards.described(probe) or shards.index(probe, ".safetensors.index.json") is not None:
        return False
    return shards.index(probe, SUFFIX) is not None


def open(path: Path, read: str) -> Checkpoint:
    return shards.open_index(path, SUFFIX, read, NAME, open_shard)


def open_shard(path: Path, read: str) -> Checkpoint:
    """One shard, of whichever generation of torch.save."""
    legacy = torch_legacy.detect(Probe(path))
    return torch_legacy.open(path, read) if legacy else torch_zip.open(path, read)
