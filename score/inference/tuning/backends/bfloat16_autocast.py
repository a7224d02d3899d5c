"""`bf16-autocast`: products in bfloat16, sums and norms in float32, as torch.autocast chooses."""

from collections.abc import Sequence

import torch

from score.inference.tuning.backends.base import Built, Subject

NAME = "bf16-autocast"


def missing(device: torch.device) -> str | None:
    return None


def build(subject: Subject) -> Built:
    with torch.inference_mode():
        wanted = [value.dtype for value in subject.flat(*subject.samples.all[0].values())]

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        with torch.autocast(subject.device.type, torch.bfloat16):
            found = subject.flat(*inputs)
        return [value.to(dtype) for value, dtype in zip(found, wanted, strict=True)]

    return Built(run)
