"""The formats: every module of this package that has a `NAME`.

To add one, add a file here with `NAME`, `detect(probe)` and `open(path, read)`. Detectors exclude each other: at most
one says yes to any file.
"""

import importlib
import os
import pkgutil
from functools import cache
from pathlib import Path
from typing import Protocol

import score.formats
from score.errors import LoadError, ModelDirUnreadable, NoCheckpoint
from score.formats.base import Contents
from score.formats.probe import Probe


class Format(Protocol):
    """What a module in `score.formats` offers. Modules are the instances: there is no class to inherit from."""

    NAME: str

    def detect(self, probe: Probe) -> bool:
        """Whether the content at `probe.path` is of this format."""
        ...

    def open(self, path: Path, read: str) -> Contents:
        """Open the file without running anything from it. `read` is the setting `SCORE_READ`."""
        ...


@cache
def formats() -> dict[str, Format]:
    """All formats by name."""
    modules = (
        importlib.import_module(f"{score.formats.__name__}.{info.name}")
        for info in pkgutil.iter_modules(score.formats.__path__)
        if not info.name.startswith("_")
    )
    return {module.NAME: module for module in modules if hasattr(module, "NAME")}


def detect(path: Path) -> str | None:
    """The name of the format that `path` is in, or None if it is plainly not a model of any kind."""
    probe = Probe(path)
    try:
        return next((name for name, format in formats().items() if format.detect(probe)), None)
    except PermissionError as error:
        raise ModelDirUnreadable(f"this user (uid {os.getuid()}) may not read {error.filename}") from None


def open_checkpoint(path: Path, read: str = "auto", name: str | None = None) -> Contents:
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
