"""`bf16-autocast`: products in bfloat16, sums and norms in float32."""

import torch

from score.inference.tuning.backends import half
from score.inference.tuning.backends.base import Built, Subject

NAME = "bf16-autocast"
missing = half.no_bfloat16


def build(subject: Subject) -> Built:
    return half.products(subject, torch.bfloat16)
