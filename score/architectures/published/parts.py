"""What all files here rename by: names by patterns, and parts of tensors as they are brought in."""

import re
from collections.abc import Iterable

from score.formats.base import TensorRef, computed


def thirds(ref: TensorRef) -> tuple[TensorRef, TensorRef, TensorRef]:
    """Query, key and value, which lie below each other: [3 x N, ...] to three of [N, ...]."""
    first, second, third = (slices(ref, 3, at) for at in range(3))
    return first, second, third


def slices(ref: TensorRef, count: int, at: int) -> TensorRef:
    """One of `count` equal parts along the first dimension."""
    rows = ref.shape[0] // count
    return computed(ref.dtype_name, (rows, *ref.shape[1:]), lambda: ref.load()[at * rows : (at + 1) * rows])


def turned(ref: TensorRef) -> TensorRef:
    """A matrix that multiplies from the right as one that multiplies from the left."""
    return computed(ref.dtype_name, ref.shape[::-1], lambda: ref.load().t().contiguous())


def as_float32(ref: TensorRef) -> TensorRef:
    return ref if ref.dtype_name == "float32" else computed("float32", ref.shape, lambda: ref.load().float())


def layers(names: Iterable[str], start: str) -> int:
    """How many numbered layers there are: the highest number after `start`, and one."""
    places = [name[len(start) :].partition(".")[0] for name in names if name.startswith(start)]
    numbers = {int(place) for place in places if place.isdigit()}
    return len(numbers) if numbers == set(range(len(numbers))) else 0


Names = tuple[tuple[re.Pattern[str], str], ...]
"""What a publisher's names hold, and what transformers has in its place, in the order in which they are looked at."""


def patterns(*pairs: tuple[str, str]) -> Names:
    return tuple((re.compile(theirs), ours) for theirs, ours in pairs)


def named(name: str, names: Names) -> str:
    for theirs, ours in names:
        name = theirs.sub(ours, name)
    return name


def queries(name: str, ref: TensorRef, together: str, apart: str) -> dict[str, TensorRef]:
    """Query, key and value under names of their own: `apart`, such as `.{}_proj.`, in the place of `together`."""
    return {name.replace(together, apart.format(kind)): part for kind, part in zip("qkv", thirds(ref), strict=True)}
