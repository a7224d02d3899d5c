"""Weights from mapped files onto a GPU, as quick as the disk or the bus.

A mapped tensor is read as it is touched, and a GPU takes bytes quickest from pinned memory. Several threads read at a
time, each into two pinned buffers: while one is on its way to the GPU, the other is filled.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from score import log

PIECE = 32 << 20  # bytes that are on their way at a time, for each buffer
SMALL = 1 << 20  # bytes of a tensor from which on it is worth it
THREADS = 8
BUFFERS = 2  # of a thread


class Lane(Protocol):
    """One thread's way to a device."""

    def buffer(self, at: int) -> torch.Tensor:
        """One of its buffers, uint8[PIECE], once what was in it has arrived."""

    def send(self, at: int, size: int, into: torch.Tensor) -> None:
        """Have the first `size` bytes of a buffer go to a place on the device, without waiting."""

    def finish(self) -> None:
        """Wait until all has arrived."""


class _Gpu:
    """By a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))  # which may still use what it has given up
        self._buffers = [torch.empty(PIECE, dtype=torch.uint8, pin_memory=True) for _ in range(BUFFERS)]
        self._sent = [torch.cuda.Event() for _ in range(BUFFERS)]

    def buffer(self, at: int) -> torch.Tensor:
        self._sent[at].synchronize()
        return self._buffers[at]

    def send(self, at: int, size: int, into: torch.Tensor) -> None:
        with torch.cuda.stream(self._stream):
            into.copy_(self._buffers[at][:size], non_blocking=True)
            self._sent[at].record(self._stream)

    def finish(self) -> None:
        self._stream.synchronize()


@dataclass(frozen=True)
class _Piece:
    """Bytes of a tensor, and where they belong."""

    given: torch.Tensor
    into: torch.Tensor


def moved(module: nn.Module, device: torch.device, lane: Callable[[torch.device], Lane] = _Gpu) -> nn.Module:
    """The module with its weights on a device; those that are there already stay. Raises `torch.OutOfMemoryError`."""
    if device.type != "cuda" and lane is _Gpu:
        return module.to(device)
    large = {
        id(value): value
        for value in itertools.chain(module.parameters(), module.buffers())
        if value.device.type == "cpu" and value.is_contiguous() and value.layout == torch.strided
        and value.nbytes >= SMALL and not value.is_quantized
    }  # fmt: skip
    if not large:
        return module.to(device)
    arrived = {key: torch.empty_like(value, device=device) for key, value in large.items()}
    try:
        _send([(large[key].detach(), arrived[key]) for key in large], lambda: lane(device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # no memory can be pinned, as in some containers
        log.warning("weights go to %s one by one, since no memory can be pinned: %s", device, str(error)[:200])
        return module.to(device)

    def placed(value: torch.Tensor) -> torch.Tensor:
        return arrived[id(value)] if id(value) in arrived else value.to(device)

    made: nn.Module = module._apply(placed)  # type: ignore[arg-type]  # None never comes
    return made


def _send(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], lane: Callable[[], Lane]) -> None:
    pieces = iter([piece for given, into in pairs for piece in _cut(given, into)])
    threads = min(THREADS, os.cpu_count() or 1)

    def work() -> None:
        own = lane()
        for count, piece in enumerate(_shared(pieces)):
            at = count % BUFFERS
            size = piece.given.numel()
            own.buffer(at)[:size].copy_(piece.given)  # which reads the file, and lets other threads do so too
            own.send(at, size, piece.into)
        own.finish()

    with ThreadPoolExecutor(threads, thread_name_prefix="upload") as pool:
        for each in [pool.submit(work) for _ in range(threads)]:
            each.result()


def _shared(pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """What several threads take from: `next` of a list's iterator is one step for the interpreter."""
    while (piece := next(pieces, None)) is not None:
        yield piece


def _cut(given: torch.Tensor, into: torch.Tensor) -> Iterator[_Piece]:
    one, other = (value.view(-1).view(torch.uint8) if value.dim() else value for value in (given, into))
    for start in range(0, one.numel(), PIECE):
        yield _Piece(one[start : start + PIECE], other[start : start + PIECE])
