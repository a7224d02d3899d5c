"""From settings to the weights: which file, whether it is what it was, which mapping in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from score.formats._io import integrity
from score.formats.base import Checkpoint, TensorRef
from score.settings import Settings
from score.weights import base_model, checksums, quantised, select
from score.weights.locate import find_checkpoint
from score.weights.select import Candidate


@dataclass(frozen=True, eq=False)
class Opened:
    """A checkpoint, the folder it was found below, and which mapping in it `SCORE_WEIGHTS` names."""

    checkpoint: Checkpoint
    root: Path
    wanted: str | None = None

    @cached_property
    def chosen(self) -> Candidate | None:
        """The weights, quantised or not; None where a program has none. Raises `NoWeights`, `SeveralWeights` or
        `WeightsNotFound`."""
        return select.weights_of(self.checkpoint, self.wanted)

    @cached_property
    def weights(self) -> Candidate | None:
        """The weights, where their numbers mean what they are. Raises `QuantisedWeights` too."""
        return quantised.weights_of(self.checkpoint, self.wanted)


def open_weights(settings: Settings, *, verify: bool = True) -> Opened:
    """Find the one checkpoint, check it against SHA256SUMS, and open it; no tensor is read yet.

    Without `verify` the list is not looked at: for looking into a checkpoint, altered or not. Raises a `LoadError`.
    """
    found = find_checkpoint(settings)
    if verify:
        checksums.verify(found.path, found.root)
    checkpoint = found.opened(settings.read)
    if verify and checkpoint.packed:
        checksums.verify(checkpoint.path, checkpoint.packed.root)
    inside = checkpoint.packed.root if checkpoint.packed else found.root
    return Opened(base_model.based(checkpoint, inside, settings.base, settings.read), found.root, settings.weights)


class TensorMapping(Mapping[str, "torch.Tensor"]):
    """Weights by name, each brought in (mapped where the file allows it) when it is asked for, and not kept.

    `refs` has what is known of each without that: dtype, shape, size. Asking for a tensor whose bytes are not what the
    archive's checksum says raises `MalformedFile`.
    """

    def __init__(self, refs: Mapping[str, TensorRef]) -> None:
        self.refs = refs

    def __getitem__(self, name: str) -> torch.Tensor:
        with integrity.checked():
            return self.refs[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self.refs)

    def __len__(self) -> int:
        return len(self.refs)

    def __repr__(self) -> str:
        return f"<{len(self)} tensors, {sum(ref.nbytes for ref in self.refs.values()):,} bytes>"
