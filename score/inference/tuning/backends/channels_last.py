"""`channels-last`: convolutions over [N, H, W, C], as the processors' kernels like it; the same numbers in another
order. https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from score.inference.tuning.backends.base import Built, NotPossible, Subject
from score.inference.tuning.swap import Flat

NAME = "channels-last"


def missing(device: torch.device) -> str | None:
    return None


def turned(module: nn.Module) -> nn.Module:
    if not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        raise NotPossible("it has no convolution over pictures")
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def placed(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [
        value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 and value.is_floating_point() else value
        for value in inputs
    ]


def build(subject: Subject) -> Built:
    flat = Flat(turned(copy.deepcopy(subject.module)), subject.samples.order).eval()

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [value.contiguous() for value in flat(*placed(inputs))]

    return Built(run)
