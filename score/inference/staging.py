"""Requests' numbers on their way to a GPU and back, while it computes for others.

A batch is put together in pinned memory, which the GPU reads without the CPU, and goes there by a stream of its own;
its pass is launched behind the copy, and its outputs go to pinned memory behind the pass. All of that is asked for, and
nothing waited for: while the GPU is busy with one batch, the next is put together and copied.
https://docs.pytorch.org/docs/stable/notes/cuda.html#use-pinned-memory-buffers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from score import log
from score.codecs.base import Arrays
from score.inference import outputs, watchdog


class Lane(Protocol):
    """The way to a device and back."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor here, from which `up` copies best."""

    def up(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor on the device, which has what `value` has by the time that the device computes with it."""

    def down(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor here, which has what `value` has once a mark that is set later has been reached."""

    def mark(self) -> Callable[[], None]:
        """Note how far the device has been asked to go; a call waits until it is there."""


class Gpu:
    """Pinned memory comes from torch's allocator, which keeps it, and gives it to nobody while a copy uses it."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def up(self, value: torch.Tensor) -> torch.Tensor:
        if value.device.type != "cpu":
            return value.to(self._device)
        with torch.cuda.stream(self._stream):
            placed = (value if value.is_pinned() else value.pin_memory()).to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        placed.record_stream(computing)  # its memory belongs to the other stream, and is used by this one
        return placed

    def down(self, value: torch.Tensor) -> torch.Tensor:
        if value.device.type != "cuda":
            return value
        return self.empty(tuple(value.shape), value.dtype).copy_(value.detach(), non_blocking=True)

    def mark(self) -> Callable[[], None]:
        reached = torch.cuda.Event()
        reached.record(torch.cuda.current_stream(self._device))
        return reached.synchronize


def lane_to(device: torch.device) -> Lane | None:
    """The way to a GPU; None to any other device, and where no memory can be pinned, as in some containers."""
    if device.type != "cuda":
        return None
    try:
        found = Gpu(device)
        found.empty((1,), torch.float32)
    except RuntimeError as error:
        log.warning("requests are copied to %s one by one, since no memory can be pinned: %s", device, str(error)[:200])
        return None
    return found


def begun(
    lane: Lane,
    compute: Callable[[dict[str, Any]], Any],
    guard: Callable[[], AbstractContextManager[None]],
    inputs: Mapping[str, Any],
) -> Callable[[], Arrays]:
    """Have a device begin to `compute`; a call of what is returned waits for the outputs, as `outputs.arrays` has them.

    Both are inside of a `guard`, which makes errors of what the model raises: a device says only later what went wrong
    on it.
    """
    with guard(), torch.inference_mode():
        placed = {name: lane.up(value) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        found = outputs.named(compute(placed), lambda value: lane.down(value) if _plain(value) else value)
        reached = lane.mark()

    def wait() -> Arrays:
        with guard(), watchdog.forward_pass():
            reached()
            return outputs.completed(found)

    return wait


def _plain(value: torch.Tensor) -> bool:
    """Whether a tensor is copied as it is; `outputs.array` waits for any other."""
    return value.layout == torch.strided and not value.is_quantized
