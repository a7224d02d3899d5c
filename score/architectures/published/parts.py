"""Parts of tensors, and tensors turned, as they are brought in."""

import torch

from score.formats.base import TensorRef, computed


def thirds(ref: TensorRef) -> tuple[TensorRef, TensorRef, TensorRef]:
    """Query, key and value, which lie below each other: [3 x N, ...] to three of [N, ...]."""
    first, second, third = (slices(ref, 3, at) for at in range(3))
    return first, second, third


def slices(ref: TensorRef, count: int, at: int) -> TensorRef:
    """One of `count` equal parts along the first dimension."""
    rows = ref.shape[0] // count
    return computed(ref.dtype, (rows, *ref.shape[1:]), lambda: ref.load()[at * rows : (at + 1) * rows])


def turned(ref: TensorRef) -> TensorRef:
    """A matrix that multiplies from the right as one that multiplies from the left."""
    return computed(ref.dtype, ref.shape[::-1], lambda: ref.load().t().contiguous())


def shaped(ref: TensorRef, shape: tuple[int, ...]) -> TensorRef:
    return computed(ref.dtype, shape, lambda: ref.load().reshape(shape))


def as_float32(ref: TensorRef) -> TensorRef:
    return ref if ref.dtype == torch.float32 else computed(torch.float32, ref.shape, lambda: ref.load().float())


def layers(shapes: object, start: str) -> int:
    """How many numbered layers there are: the highest number after `start`, and one."""
    numbers = {int(name[len(start) :].partition(".")[0]) for name in shapes if _numbered(name, start)}  # type: ignore[attr-defined]
    return len(numbers) if numbers == set(range(len(numbers))) else 0


def _numbered(name: str, start: str) -> bool:
    return name.startswith(start) and name[len(start) :].partition(".")[0].isdigit()
