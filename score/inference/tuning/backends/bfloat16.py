"""`bf16`: weights and computation in bfloat16; answers in the precision that they had."""

import contextlib
import copy
from collections.abc import Sequence

import torch

from score.inference.tuning.backends.base import Built, NotPossible, Subject
from score.inference.tuning.backends.channels_last import placed, turned
from score.inference.tuning.swap import Flat

NAME = "bf16"
_WIDE = (torch.float32, torch.float64)


def missing(device: torch.device) -> str | None:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "the GPU has no bfloat16"
    return None


def build(subject: Subject) -> Built:
    with torch.inference_mode():
        wanted = [value.dtype for value in subject.flat(*subject.samples.all[0].values())]
    if not any(parameter.dtype in _WIDE for parameter in subject.module.parameters()):
        raise NotPossible("its weights are not wider")
    module = copy.deepcopy(subject.module).bfloat16()
    with contextlib.suppress(NotPossible):
        module = turned(module)
    flat = Flat(module, subject.samples.order).eval()

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        narrow = [value.bfloat16() if value.dtype in _WIDE else value for value in inputs]
        found = flat(*placed(narrow))
        return [value.contiguous().to(dtype) for value, dtype in zip(found, wanted, strict=True)]

    return Built(run)
