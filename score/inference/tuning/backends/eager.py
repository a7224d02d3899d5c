"""`eager`: torch as it is, in the precision of the checkpoint. What all others are compared with."""

from collections.abc import Sequence

import torch

from score.inference.tuning.backends.base import Built, Subject

NAME = "eager"


def missing(device: torch.device) -> str | None:
    return None


def build(subject: Subject) -> Built:
    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return subject.flat(*inputs)  # type: ignore[no-any-return]

    return Built(run)
