"""`SHA256SUMS` beside a checkpoint: the digests of the files that loading reads, checked before they are read.

The format is that of coreutils' `sha256sum`, so that `sha256sum --check SHA256SUMS` says the same.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from score.errors import ChecksumMismatch, MalformedFile
from score.formats._io.source import resolved
from score.weights.hashing import file_sha256

NAME = "SHA256SUMS"
MAX_BYTES = 10_000_000
MOST_SHOWN = 40

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)\Z")


def write(folder: Path, files: Iterable[Path]) -> None:
    """List files below a folder, with their digests, in the folder's `SHA256SUMS`."""
    lines = [f"{file_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in sorted(files)]
    (folder / NAME).write_text("".join(lines))


def verify(path: Path, root: Path) -> int:
    """Check the files that `SHA256SUMS` lists, in the folders from the model folder `root` down to the one that a
    checkpoint `path` is in, or is; how many are listed, 0 where there is no list.

    Raises `ChecksumMismatch`, which names each file that differs or is missing, and `MalformedFile` for a list that is
    none, or that names a file outside the folder.
    """
    folders = [folder for folder in (path, *path.parents) if folder.is_relative_to(root) and folder.is_dir()]
    lists = {folder: names for folder in folders if (names := _verify(folder)) is not None}
    if lists:
        _refuse_unlisted(min(lists, key=lambda folder: len(folder.parts)), lists)
    return sum(map(len, lists.values()))


def _refuse_unlisted(top: Path, lists: Mapping[Path, set[str]]) -> None:
    """Any file could be read, a label or a tokenizer as well as weights: what no list has is not what was checked."""
    known = {folder / name for folder, names in lists.items() for name in names}
    strange = [
        item
        for item in sorted(top.rglob("*"))
        if item not in known and not item.is_dir() and not (item.name == NAME and item.parent in lists)
    ]
    if strange:
        more = f"\n... and {len(strange) - MOST_SHOWN:,} more" if len(strange) > MOST_SHOWN else ""
        raise ChecksumMismatch(
            f"{len(strange)} files in {top} are not in {NAME}",
            detail="\n".join(f"{item.relative_to(top)}: not listed" for item in strange[:MOST_SHOWN]) + more,
            hint=f"Remove them, or write the list again with all files (sha256sum FILE ... > {NAME}).",
        )


def _verify(root: Path) -> set[str] | None:
    """The files that a folder's list has, all of them as listed; None where there is no list."""
    listed = root / NAME
    if listed.is_symlink():
        raise MalformedFile(f"{listed} is a link: what it leads to is not what was registered")
    if not listed.is_file():
        return None
    if listed.stat().st_size > MAX_BYTES:
        raise MalformedFile(f"{NAME} takes {listed.stat().st_size:,} bytes, too much for what it is")
    wrong = []
    names: set[str] = set()
    lines = [line for line in listed.read_text(errors="replace").splitlines() if line.strip()]
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            raise MalformedFile(f"{NAME} has a line that is not a digest and a name: {line[:120]!r}")
        digest, name = match[1].lower(), match[2]
        path = root / name
        names.add(os.path.normpath(name))
        target = resolved(path)
        if target is None or not target.is_relative_to(root.resolve()):
            raise MalformedFile(f"{NAME} names {name!r}, which is outside the model folder")
        if not path.is_file():
            wrong.append(f"{name}: missing")
        elif (found := file_sha256(path)) != digest:
            wrong.append(f"{name}: expected {digest}, found {found}")
    if wrong:
        raise ChecksumMismatch(
            f"{len(wrong)} of the {len(lines)} files in {listed} are not what they were", detail="\n".join(wrong)
        )
    return names
