"""The class that `SCORE_ARCHITECTURE` names: registered, a provider's, in a package, or in a file."""

import ast
import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import loadstone_models as models
from torch import nn

from score.architectures.libraries import builder
from score.architectures.meta_init import where
from score.architectures.recognition import registered_models
from score.errors import ArchitectureBroken, ArchitectureUnknown
from score.imports import definitions, models_folder
from score.settings import folders
from score.weights.hashing import file_sha256


def named(name: str, folder: Path | None = None) -> models.Registered:
    """A registered name, `timm:resnet50` and the like, `package.module:Class`, or `path/to/file.py:Class` (relative to
    here or the model folder)."""
    registered = registered_models()
    if name in registered:
        return registered[name]
    if (build := builder(name)) is not None:
        return models.Registered(name, build)
    location, _, attribute = name.rpartition(":")
    if not location:
        raise ArchitectureUnknown(f"no architecture is registered as {name!r}", detail=_registered_names(registered))
    module = from_file(located(Path(location), folder)) if location.endswith(".py") else _from_package(location)
    cls = getattr(module, attribute, None)
    if cls is None and (left := getattr(module, "__left_out__", None)) is not None and (why := left.why(attribute)):
        raise ArchitectureBroken(
            f"{location} has no class {attribute!r} without running it: {why}", hint=_hint(left, why)
        )
    if not callable(cls):
        classes = [
            key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        raise ArchitectureUnknown(
            f"{location} has no class {attribute!r}; its modules are: {', '.join(classes) or 'none'}"
        )
    return models.Registered(name, cls)


def located(location: Path, folder: Path | None) -> Path:
    """A file as `SCORE_ARCHITECTURE` names it: relative to here, or to the model folder."""
    top = folder.parent if folder is not None and folder.is_file() else folder
    below = [] if location.is_absolute() or top is None else [each / location for each in folders(top)]
    tried = [location, *below]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise ArchitectureUnknown(f"there is no file {' or '.join(map(str, tried))}")
    return path


def from_file(path: Path) -> Any:
    """A Python file as a module of its own: what it defines, and nothing that it does (`score.imports.definitions`).

    Its caller has decided that this may be run. Raises `ArchitectureBroken`.
    """
    name = f"score_architecture_{file_sha256(path)[:12]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    models_folder.give_way()
    sys.modules[name] = module  # dataclasses and pickled classes look themselves up there
    try:
        definitions.execute(ast.parse(path.read_bytes(), str(path)), module, path.name)
    except Exception as error:  # noqa: BLE001  # users' files raise anything
        raise ArchitectureBroken(
            f"{path} can't be imported: {type(error).__name__}: {error}", hint="Mend the file.", detail=where(error)
        ) from None
    return module


def _from_package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  # a package raises anything at import
        raise ArchitectureUnknown(f"{name} can't be imported: {type(error).__name__}: {error}") from None


def _hint(left: definitions.LeftOut, why: str) -> str:
    missing = next((package for package in left.missing.values() if package in why), None)
    if missing:
        return (
            f"Install it (pip install {missing.partition('.')[0]}), or move the class into a file without that import."
        )
    return "Move the class, and what it needs, into a file of its own that trains nothing."


def _registered_names(registered: Mapping[str, Any]) -> str:
    return "registered: " + (", ".join(sorted(registered)) or "none")
