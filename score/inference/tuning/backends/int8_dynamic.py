"""`int8-dynamic`: linear layers with weights of 8 bits, and inputs rounded to 8 bits as they come, by torchao."""

import copy
import importlib.util
from collections.abc import Sequence

import torch
from torch import nn

from score.inference.tuning.backends.base import Built, NotPossible, Subject
from score.inference.tuning.swap import Flat

NAME = "int8-dynamic"
PACKAGE = "torchao"


def missing(device: torch.device) -> str | None:
    return None if importlib.util.find_spec("torchao") else "torchao is not installed"


def build(subject: Subject) -> Built:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    if not any(isinstance(part, nn.Linear) for part in subject.module.modules()):
        raise NotPossible("it has no linear layer")
    module = copy.deepcopy(subject.module)
    try:
        quantize_(module, Int8DynamicActivationInt8WeightConfig())
    except Exception as error:  # noqa: BLE001  # torchao raises anything
        raise NotPossible(f"torchao: {str(error)[:200]}") from None
    flat = Flat(module, subject.samples.order).eval()

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return flat(*inputs)  # type: ignore[no-any-return]

    return Built(run)
