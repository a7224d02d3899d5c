"""Files that lie in another as they are: a stored member of an archive, under a path of its own.

The path holds a file of the right size with nothing in it, so that folders can be listed and sizes asked for; its bytes
are read, or mapped, where the archive has them. Whoever reads one goes through here: `Source` does.
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """The file that has the bytes of a path, from where on, and how many; None for all that are there."""

    path: Path
    start: int = 0
    size: int | None = None


_places: dict[str, Place] = {}


def put(path: Path, place: Place) -> None:
    """The bytes of `path` lie elsewhere from now on, in this process."""
    _places[os.path.abspath(path)] = place  # noqa: PTH100  # resolve() would follow links


def forget(path: Path) -> None:
    """The bytes of `path` are its own."""
    _places.pop(os.path.abspath(path), None)  # noqa: PTH100


def of(path: Path) -> Place:
    """Where the bytes of a path lie: most have their own."""
    return _places.get(os.path.abspath(path)) or Place(path)  # noqa: PTH100
