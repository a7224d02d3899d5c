"""`bf16`: weights and computation in bfloat16."""

import torch

from score.inference.tuning.backends import half
from score.inference.tuning.backends.base import Built, Subject

NAME = "bf16"
missing = half.no_bfloat16


def build(subject: Subject) -> Built:
    return half.whole(subject, torch.bfloat16)
