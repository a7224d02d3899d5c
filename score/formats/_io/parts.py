"""A file that was cut into parts for a size limit: `model.tar.gz.part00`, `model.pt.001`, or what coreutils' `split`
calls `xaa`, `xab` ... Their names say the order, and their sizes that they are parts: all but the last are as large.
"""

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from score.errors import MalformedFile
from score.formats._io import placed

_NAME = re.compile(r"(.*?)((?:[._-]part[._-]?|\.)(?=\d)|[._-]part[._-]?|[._-]|(?<=\Ax))(\d{1,5}|[a-z]{2,4})\Z", re.I)


@dataclass(frozen=True)
class _Place:
    """A part's place among the others: what comes before its number, and the number as it is written."""

    stem: str
    number: str

    def value(self) -> int:
        if self.number.isdigit():
            return int(self.number)
        value = 0
        for letter in self.number.lower():
            value = value * 26 + ord(letter) - ord("a")
        return value


def _place(name: str) -> _Place | None:
    found = _NAME.match(name)
    return _Place(found[1] + found[2], found[3]) if found else None


def of(path: Path) -> tuple[Path, ...]:
    """What may be the parts of one file that `path` is the first of, in order, by names and sizes; none where it is no
    such part."""
    first = _place(path.name)
    if first is None or first.value() > 1 or _previous(path, first):
        return ()
    beside: dict[int, str] = {}
    for name in _names(path.parent):
        place = _place(name)
        if place is not None and place.stem == first.stem and place.number.isdigit() == first.number.isdigit():
            beside[place.value()] = name
    numbers = sorted(beside)
    found = tuple(path.with_name(beside[number]) for number in numbers)
    sizes = [each.stat().st_size for each in found]
    if len(found) < 2 or len(set(sizes[:-1])) > 1 or not 0 < sizes[-1] <= sizes[0]:
        return ()
    return found


def complete(path: Path) -> tuple[Path, ...]:
    """As `of`. Raises `MalformedFile` where one is missing between others."""
    found = of(path)
    for one, other in pairwise(found):
        before, after = _place(one.name), _place(other.name)
        if before and after and after.value() != before.value() + 1:
            raise MalformedFile(f"{path.name} is cut, and a part is missing between {one.name} and {other.name}")
    return found


def _previous(path: Path, place: _Place) -> bool:
    """Whether there is a part before one that could be the first."""
    if place.value() == 0:
        return False
    zero = place.number[:-1] + ("0" if place.number.isdigit() else "a")
    return path.with_name(place.stem + zero).is_file()


def first_of(path: Path) -> Path | None:
    """The first part of what a file may be a later part of."""
    place = _place(path.name)
    if place is None or place.value() == 0:
        return None
    width, digits = len(place.number), place.number.isdigit()
    firsts = [f"{value:0{width}}" for value in (0, 1)] + ["0", "1"] if digits else ["a" * width, "A" * width]
    for first in firsts:
        start = path.with_name(place.stem + first)
        if start != path and start.is_file() and path in of(start):
            return start
    return None


def name_of(path: Path) -> str:
    """The name of the whole file: `model.pt` for `model.pt.part00`."""
    place = _place(path.name)
    stem = re.sub(r"([._-]part)?[._-]?\Z", "", place.stem, flags=re.I) if place else ""
    return stem or "whole"


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []


def joined(files: Sequence[Path]) -> BinaryIO:
    """The parts' bytes, one after the other."""
    return _Joined(files)  # type: ignore[return-value]  # a BinaryIO in all that matters


class _Joined(io.RawIOBase):
    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._current: BinaryIO | None = None
        self._left = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._left and self._files:
            self._open(self._files.pop(0))
        if self._current is None:
            return 0
        piece = self._current.read(min(len(buffer), self._left))
        if not piece and self._left:
            raise EOFError("a part shrank while it was read")
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)

    def _open(self, path: Path) -> None:
        if self._current is not None:
            self._current.close()
        place, self._left = placed.of(path), path.stat().st_size
        self._current = place.path.open("rb")
        self._current.seek(place.start)
