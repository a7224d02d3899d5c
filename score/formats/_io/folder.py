"""Files that a file names beside itself: in its folder, of sane size, and never outside of it."""

from pathlib import Path
from typing import Any

import orjson

from score.errors import MalformedFile, NoCheckpoint
from score.formats._io.source import refuse_pointer, resolved

MOST_JSON = 256 << 20  # bytes


def contained(folder: Path, name: Any) -> Path:
    """A path that a file names, in its folder. Raises `MalformedFile` for one outside, be it by a link."""
    path = folder / str(name)
    target, top = resolved(path), resolved(folder)
    if not isinstance(name, str) or target is None or top is None or not target.is_relative_to(top):
        raise MalformedFile(f"{folder.name}: it names {name!r}, which is not in the folder")
    return path


def within(folder: Path, name: Any) -> Path:
    """The same for a file that has to be there (`NoCheckpoint`)."""
    path = contained(folder, name)
    if not path.is_file():
        raise NoCheckpoint(
            f"{folder.name}: the index names {name}, and there is no such file",
            hint="Copy all shards into the folder, beside the index.",
        )
    return path


def json_file(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sane size."""
    if path.stat().st_size > MOST_JSON:
        raise MalformedFile(f"{path.name} takes {path.stat().st_size:,} bytes, too much for what it is")
    content = path.read_bytes()
    refuse_pointer(path, content)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise MalformedFile(f"{path.name} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise MalformedFile(f"{path.name} is not a JSON object")
    return value
