"""Every checkpoint below a folder, and the folder as people see it. Links out of it are not followed."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from score.errors import LoadError, ModelDirUnreadable, one_line
from score.formats import registry
from score.formats._io.source import resolved

TREE_LINES = 40
# Plainly no checkpoints, whatever is in them; this only saves time, since formats are told by content.
_SKIPPED_SUFFIXES = frozenset(
    {".py", ".pyc", ".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".csv", ".tsv", ".log"}
    | {".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".ipynb", ".sh", ".lock", ".html", ".css", ".js", ".parquet"}
    | {".npy", ".whl", ".proto"}
)
# KServe's storage initializer links what is on a volume (pvc://) into the folder that it serves: from where, to where.
PLATFORM_LINKS = {Path("/mnt/models"): Path("/mnt/pvc")}
_TUNED = "tuned.json"  # in a folder of what was made of a checkpoint beside it
_SKIPPED_FOLDERS = frozenset(("__pycache__", "node_modules", "site-packages", "venv"))


# A file that says which one is the model, of several that hold tensors.
_SAYS_WHICH = {"_stable_baselines3_version": "policy.pth"}


def checkpoints_in(folder: Path, root: Path | None = None) -> Iterator[tuple[Path, str]]:
    """Every checkpoint in `folder`, with its format: itself if it is one as a whole, else the files in it. Links out of
    `root` are not followed: whoever packed the model folder does not get to read the rest of the machine."""
    root = root or folder
    format = registry.detect(folder)
    if format is not None:
        yield folder, format
        return
    for entry in _which(listed(folder)):
        if entry.name.startswith(".") or leaves(entry, root) or _loops(entry):
            continue
        if entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS and not _is_tuned(entry):
                yield from checkpoints_in(entry, root)
        elif entry.is_file() and entry.suffix.lower() not in _SKIPPED_SUFFIXES:
            format = registry.detect(entry)
            if format is not None:
                yield entry, format


def _is_tuned(folder: Path) -> bool:
    """Whether a folder is what `score tune` wrote. Raises `ModelDirUnreadable`."""
    try:
        return (folder / _TUNED).is_file()
    except PermissionError:
        raise unreadable(folder) from None


def _which(entries: list[Path]) -> list[Path]:
    named = {entry.name: entry for entry in entries}
    only = next((named[name] for mark, name in _SAYS_WHICH.items() if mark in named and name in named), None)
    return [only] if only else entries


def listed(folder: Path) -> list[Path]:
    """What is in a folder, in order. Raises `ModelDirUnreadable`."""
    try:
        return sorted(folder.iterdir())
    except PermissionError:
        raise unreadable(folder) from None


def _loops(entry: Path) -> bool:
    return entry.is_symlink() and entry.is_dir() and resolved(entry) in entry.parents


def leaves(entry: Path, root: Path) -> bool:
    """Whether an entry is a link to outside of `root`, or to nowhere."""
    if not entry.is_symlink():
        return False
    target, top = resolved(entry), resolved(root)
    if target is None or top is None:
        return True
    return not target.is_relative_to(top) and not _of_platform(entry, target)


def _of_platform(entry: Path, target: Path) -> bool:
    """Whether a link is one that the platform made, and no file of the model's."""
    volume = PLATFORM_LINKS.get(entry.parent)
    return volume is not None and target.is_relative_to(volume)


def unreadable(path: Path) -> LoadError:
    return ModelDirUnreadable(f"this user (uid {os.getuid()}) may not read {path}")


def tree(root: Path, depth: int = 6, notes: Mapping[Path, str] | None = None) -> str:
    """A folder's files with their sizes, indented, at most `TREE_LINES` of them; `notes` says more of some paths."""
    lines = list(_tree(root, 0, depth, notes or {}))
    more = len(lines) - TREE_LINES
    return "\n".join([*lines[:TREE_LINES], *([f"... and {more:,} more"] if more > 0 else [])])


def _tree(path: Path, level: int, depth: int, notes: Mapping[Path, str]) -> Iterator[str]:
    indent, note = "  " * level, f"  <- {notes[path]}" if path in notes else ""
    called = one_line(path.name)
    try:
        if path.is_dir():
            yield f"{indent}{called}/{note}"
            if level < depth:
                for child in sorted(path.iterdir()):
                    yield from _tree(child, level + 1, depth, notes)
        elif path.is_symlink():
            yield f"{indent}{called}  -> {one_line(str(path.readlink()))}{note}"
        else:
            yield f"{indent}{called}  {size(path.stat().st_size)}{note}"
    except OSError as error:
        yield f"{indent}{called}  ({error.strerror})"


def size(nbytes: float) -> str:
    """Bytes for people: `512 B`, `4.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"
