"""`fp16`: weights and computation in float16."""

import torch

from score.inference.tuning.backends import half
from score.inference.tuning.backends.base import Built, Subject

NAME = "fp16"
missing = half.no_half


def build(subject: Subject) -> Built:
    return half.whole(subject, torch.float16)
