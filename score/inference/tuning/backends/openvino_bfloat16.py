"""`openvino-bf16`: the same graph in bfloat16, where the processor has instructions for it."""

from functools import partial
from pathlib import Path

from score.inference.tuning.backends import openvino
from score.inference.tuning.backends.base import Built

NAME, PRECISION = "openvino-bf16", "bf16"
PACKAGE, OWN_THREADS = openvino.PACKAGE, openvino.OWN_THREADS
missing = missing_to_load = openvino.missing
build = partial(openvino.build, precision=PRECISION)


def load(folder: Path, threads: int) -> Built:
    return openvino.load(folder, threads, PRECISION)
