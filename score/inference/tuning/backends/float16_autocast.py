"""`fp16-autocast`: products in float16, sums and norms in float32."""

import torch

from score.inference.tuning.backends import half
from score.inference.tuning.backends.base import Built, Subject

NAME = "fp16-autocast"
missing = half.no_half


def build(subject: Subject) -> Built:
    return half.products(subject, torch.float16)
