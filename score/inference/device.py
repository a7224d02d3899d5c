"""Where the model runs: the setting `SCORE_DEVICE`, and what is really there."""

import gc
import os

import torch

from score import log
from score.errors import DeviceUnavailable
from score.inference import allocator
from score.settings import RANK

HEADROOM = 1.2  # weights, and some room for activations and the CUDA context


def choose(wanted: str, nbytes: int) -> torch.device:
    """The device for a model of `nbytes` of weights.

    `auto` takes the GPU with most free memory if the weights fit, else the CPU. Of several workers, each is bound to a
    GPU by its rank. Raises `DeviceUnavailable` for a GPU that is not there.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    rank = os.environ.get(RANK)
    if count > 1 and rank is not None and wanted in ("auto", "cuda"):
        return _of_rank(int(rank) % count, nbytes, wanted)
    if wanted == "auto":
        return _roomiest(count, nbytes) if count else torch.device("cpu")
    device = torch.device(wanted)
    if (device.index or 0) >= count:
        raise DeviceUnavailable(f"SCORE_DEVICE={wanted}, but {found()}")
    return torch.device("cuda", device.index or 0)


def _roomiest(count: int, nbytes: int) -> torch.device:
    free = {index: torch.cuda.mem_get_info(index)[0] for index in range(count)}
    best = max(free, key=lambda index: free[index])
    if free[best] >= nbytes * HEADROOM:
        return torch.device("cuda", best)
    log.warning(
        "the weights take %.1f GB and the roomiest GPU has %.1f GB free: using the CPU", nbytes / 1e9, free[best] / 1e9
    )
    return torch.device("cpu")


def _of_rank(index: int, nbytes: int, wanted: str) -> torch.device:
    free = torch.cuda.mem_get_info(index)[0]
    if wanted == "auto" and free < nbytes * HEADROOM:
        log.warning(
            "the weights take %.1f GB and cuda:%d has %.1f GB free: using the CPU", nbytes / 1e9, index, free / 1e9
        )
        return torch.device("cpu")
    return torch.device("cuda", index)


def give_back() -> None:
    """Return the memory of models that nothing refers to any more: modules may hold on to themselves, and torch and the
    allocator keep what a GPU and the kernel have given them."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA was not used
    allocator.release()


def found() -> str:
    """What there is, in words."""
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no usable GPU (is the driver there, and the container started with GPUs?)"
    names = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    return f"there is only {', '.join(names)}"
