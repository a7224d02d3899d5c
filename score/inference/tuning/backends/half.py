"""Weights and computation in half as many bits; answers in the precision that they had."""

import contextlib
import copy
from collections.abc import Sequence

import torch

from score.inference.tuning import processor
from score.inference.tuning.backends.base import Built, NotPossible, Subject
from score.inference.tuning.backends.channels_last import placed, turned
from score.inference.tuning.swap import Flat

_WIDE = (torch.float32, torch.float64)


def whole(subject: Subject, dtype: torch.dtype) -> Built:
    """All of the model in `dtype`."""
    wanted = _dtypes(subject)
    if not any(parameter.dtype in _WIDE for parameter in subject.module.parameters()):
        raise NotPossible("its weights are not wider")
    module = copy.deepcopy(subject.module).to(dtype)
    with contextlib.suppress(NotPossible):
        module = turned(module)
    flat = Flat(module, subject.samples.order).eval()

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        narrow = [value.to(dtype) if value.dtype in _WIDE else value for value in inputs]
        found = flat(*placed(narrow))
        return [value.contiguous().to(back) for value, back in zip(found, wanted, strict=True)]

    return Built(run)


def products(subject: Subject, dtype: torch.dtype) -> Built:
    """Products in `dtype`, sums and norms in float32, as torch.autocast chooses."""
    wanted = _dtypes(subject)

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        with torch.autocast(subject.device.type, dtype):
            found = subject.flat(*inputs)
        return [value.to(back) for value, back in zip(found, wanted, strict=True)]

    return Built(run)


def _dtypes(subject: Subject) -> list[torch.dtype]:
    with torch.inference_mode():
        return [value.dtype for value in subject.flat(*subject.samples.all[0].values())]


def no_half(device: torch.device) -> str | None:
    """Why float16 is out on a device: without instructions for it, a pass takes a hundred times as long."""
    if device.type != "cuda":
        return None if processor.HALF & processor.flags() else "the processor has no float16"
    return None if torch.cuda.get_device_capability(device) >= (5, 3) else "the GPU has no float16"


def no_bfloat16(device: torch.device) -> str | None:
    """Why bfloat16 is out on a device."""
    return "the GPU has no bfloat16" if device.type == "cuda" and not torch.cuda.is_bf16_supported() else None
