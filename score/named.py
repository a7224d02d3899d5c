"""The class that `SCORE_ARCHITECTURE` names: registered, a provider's, in a package, or in a file."""

import ast
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import models
from score.building import where
from score.errors import ArchitectureBroken, ArchitectureUnknown
from score.providers import builder
from score.recognition import registered_models
from score.settings import folders
from score.trust import file_sha256


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
    below = [] if location.is_absolute() or folder is None else [each / location for each in folders(folder)]
    tried = [location, *below]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise ArchitectureUnknown(f"there is no file {' or '.join(map(str, tried))}")
    return path


def from_file(path: Path, tree: ast.Module | None = None) -> Any:
    """A Python file as a module of its own, or only the part of it that is in `tree`; running it is what its caller has
    to have decided."""
    name = f"score_architecture_{file_sha256(path)[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickled classes look themselves up there
    try:
        if tree is None:
            spec.loader.exec_module(module)
        else:
            exec(compile(tree, str(path), "exec"), vars(module))  # noqa: S102  # as exec_module does with all of it
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


def _registered_names(registered: Mapping[str, Any]) -> str:
    return "registered: " + (", ".join(sorted(registered)) or "none")
