"""The formats: every module of this package that has a `NAME`.

To add one, add a file here with `NAME`, `PRIORITY`, `SERVABLE`, `detect(probe)` and `open(path, read)`. Of those that
say yes to a file, the one with the highest priority opens it. Those of priority 0 exclude each other; one that is a
special case of another's files has more, and what takes whatever is left has less.
"""

import importlib
import os
import pkgutil
from functools import cache
from pathlib import Path
from typing import Protocol

import score.formats
from score.errors import LoadError, ModelDirUnreadable, NoCheckpoint
from score.formats._io import parts
from score.formats.base import Checkpoint
from score.formats.probe import Probe

ARCHIVE = "archive"  # what a file that was cut into parts is read as


class Format(Protocol):
    """What a module in `score.formats` offers. Modules are the instances: there is no class to inherit from."""

    NAME: str
    PRIORITY: int
    SERVABLE: bool  # whether a file of this format can be a model here, or is only named in its refusal

    def detect(self, probe: Probe) -> bool:
        """Whether the content at `probe.path` is of this format."""
        ...

    def open(self, path: Path, read: str) -> Checkpoint:
        """Open the file without running anything from it. `read` is the setting `SCORE_READ`."""
        ...


@cache
def formats() -> dict[str, Format]:
    """All formats by name, the highest priority first."""
    modules = (
        importlib.import_module(f"{score.formats.__name__}.{info.name}")
        for info in pkgutil.iter_modules(score.formats.__path__)
        if not info.name.startswith("_")
    )
    found = sorted((module for module in modules if hasattr(module, "NAME")), key=lambda module: -module.PRIORITY)
    return {module.NAME: module for module in found}


def servable(name: str) -> bool:
    """Whether a file of this format can be a model here."""
    return formats()[name].SERVABLE


def detect(path: Path) -> str | None:
    """The name of the format that `path` is in, or None if it is plainly not a model of any kind."""
    try:
        first = parts.first_of(path)
        if first is not None and _is_cut(first):
            return None  # it belongs to the first
        return ARCHIVE if _is_cut(path) else _of_content(path)
    except PermissionError as error:
        raise ModelDirUnreadable(f"this user (uid {os.getuid()}) may not read {error.filename}") from None


def _of_content(path: Path) -> str | None:
    probe = Probe(path)
    return next((name for name, format in formats().items() if format.detect(probe)), None)


def _is_cut(path: Path) -> bool:
    """Whether a file is the first part of one that was cut, and no whole one by itself."""
    if not parts.of(path):
        return False
    name = _of_content(path)
    if name is None or not servable(name) or name == ARCHIVE:
        return True
    try:
        formats()[name].open(path, "auto")
    except LoadError:
        return True
    return False


def open_checkpoint(path: Path, read: str = "auto", name: str | None = None) -> Checkpoint:
    """Open `path`, whatever its format; `name` is what `detect` said of it, where that is known.

    Raises a `LoadError` that names the file and says what is wrong.
    """
    name = name or detect(path)
    if name is None:
        raise NoCheckpoint(f"{path}: not a model file of any kind that is known here")
    try:
        return formats()[name].open(path, read)
    except LoadError as error:
        if path.name not in error.message:
            error.message = f"{path.name}: {error.message}"
        raise
