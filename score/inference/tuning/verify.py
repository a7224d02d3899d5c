"""Whether what was tuned before still answers as torch does."""

from dataclasses import dataclass

import torch
from torch import nn

from score.inference.tuning import agreement
from score.inference.tuning.agreement import Agreement
from score.inference.tuning.backends import BACKENDS
from score.inference.tuning.backends.base import Built, Subject, quiet
from score.inference.tuning.samples import Samples, rows_of
from score.inference.tuning.swap import Answer, common_answer, tensors_of


@dataclass(frozen=True)
class Verified:
    """A backend that was put together again, and whether its answers still agree."""

    built: Built
    answer: Answer
    agreement: Agreement


def verified(
    module: nn.Module, samples: Samples, device: torch.device, threads: int, name: str, built: Built | None
) -> Verified | None:
    """A backend, as it was `built` or afresh, compared with torch; None where the model's answers can't be."""
    subject = Subject(module, samples, device, threads)
    with torch.inference_mode():
        few = Samples(samples.order, (min(samples.all, key=rows_of), samples.all[min(2, len(samples.all) - 1)]))
        answer = common_answer(module, few)
        if answer is None:
            return None
        with quiet():
            built = built or BACKENDS[name].build(subject)
        whole = Agreement()
        for inputs in few.all:
            wanted = tensors_of(module(**dict(inputs)))
            whole += agreement.between(wanted, built.run(list(inputs.values())), answer.scores)
    return Verified(built, answer, whole)
