"""From settings to the weights: which file, whether it is what it was, which mapping in it."""

from dataclasses import dataclass
from pathlib import Path

from score.formats.base import Checkpoint
from score.settings import Settings
from score.weights import checksums, quantised
from score.weights.locate import find_checkpoint
from score.weights.select import Candidate


@dataclass(frozen=True, eq=False)
class Opened:
    """A checkpoint, the folder it was found below, and its weights (None where a program has none)."""

    checkpoint: Checkpoint
    weights: Candidate | None
    root: Path


def open_weights(settings: Settings) -> Opened:
    """Find the one checkpoint, check it against SHA256SUMS, open it, and choose its weights; nothing is read yet.

    Raises a `LoadError`.
    """
    found = find_checkpoint(settings)
    checksums.verify(found.path, found.root)
    checkpoint = found.opened(settings.read)
    return Opened(checkpoint, quantised.weights_of(checkpoint, settings.weights), found.root)
