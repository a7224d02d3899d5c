"""`folded`: batch norms computed into the convolutions before them (Jacob et al. 2017, section 3.2), channels last."""

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from score.inference.tuning.backends.base import Built, NotPossible, Subject, in_short
from score.inference.tuning.backends.channels_last import placed, turned
from score.inference.tuning.swap import tensors_of

NAME = "folded"
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def missing(device: torch.device) -> str | None:
    return None


def build(subject: Subject) -> Built:
    norms = _norms_in(subject.module)
    if not norms:
        raise NotPossible("it has no batch norm")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded = fuse(copy.deepcopy(subject.module).eval())
    except Exception as error:  # noqa: BLE001  # torch.fx raises anything on what it can't trace
        raise NotPossible(f"torch.fx: {in_short(error)}") from None
    if _norms_in(folded) == norms:
        raise NotPossible("no batch norm follows a convolution by itself")
    module = turned(folded)

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        named = dict(zip(subject.samples.order, placed(inputs), strict=True))
        found = module(**named)
        return [value.contiguous() for value in tensors_of(found)]

    return Built(run)


def _norms_in(module: nn.Module) -> int:
    return sum(isinstance(part, _NORMS) for part in module.modules())
