"""What a model raised while it ran, as an error of ours."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from score import log
from score.errors import DeviceLost, ModelRejected, OutOfMemory, RequestError


@contextmanager
def as_ours() -> Iterator[None]:
    """Around each call of a model: whatever it raises becomes an error of ours, with the model's own as its cause where
    that says more."""
    try:
        yield
    except RequestError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the model's own code raises anything
        found = of(error)
        raise found from (error if isinstance(found, ModelRejected) else None)


def of(error: BaseException) -> RequestError:
    """`OutOfMemory`, or `ModelRejected` with what the model said. Raises `DeviceLost` where the GPU is gone."""
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f"the GPU's memory does not suffice: {first_lines(error, 200)}")
    if "can't allocate memory" in str(error):  # torch's allocator for the CPU
        return OutOfMemory(f"the memory does not suffice: {first_lines(error, 200)}")
    _restart_if_lost(error)
    return ModelRejected(f"the model raised {type(error).__name__}: {first_lines(error)}")


def first_lines(error: BaseException, limit: int = 500) -> str:
    text = "\n".join(line for line in str(error).splitlines() if line.strip())
    return text if len(text) <= limit else text[:limit] + " ..."


def _restart_if_lost(error: BaseException) -> None:
    """A CUDA error other than a lack of memory leaves the whole process unable to use the GPU: end, and let gunicorn
    start another. Raises `DeviceLost` then."""
    if isinstance(error, torch.AcceleratorError):
        log.critical("the GPU is in an error state, and the worker ends", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)
        raise DeviceLost(f"the GPU can't be used any more: {first_lines(error, 200)}") from None
