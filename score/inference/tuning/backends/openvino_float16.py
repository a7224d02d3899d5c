"""`openvino-fp16`: the same graph in float16, where the processor has instructions for it."""

from functools import partial
from pathlib import Path

import torch

from score.inference.tuning.backends import half, openvino
from score.inference.tuning.backends.base import Built

NAME, PRECISION = "openvino-fp16", "f16"
PACKAGE, OWN_THREADS = openvino.PACKAGE, openvino.OWN_THREADS
build = partial(openvino.build, precision=PRECISION)


def missing(device: torch.device) -> str | None:
    return openvino.missing(device) or half.no_half(device)


missing_to_load = missing


def load(folder: Path, threads: int) -> Built:
    return openvino.load(folder, threads, PRECISION)
