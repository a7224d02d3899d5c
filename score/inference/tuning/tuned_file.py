"""`tuned.json`: the way that was found for a checkpoint on a machine, in a folder beside the checkpoint.

It is bound to what it was found for: the checkpoint's SHA-256, the processor or the GPU, and the versions. It comes
with the checkpoint and is trusted as that is: it may choose among the ways that are here, and brings no code.
"""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from score import __version__
from score.errors import MalformedFile
from score.formats._io.folder import contained, json_file
from score.inference.tuning import processor
from score.inference.tuning.backends import BACKENDS
from score.weights.hashing import file_sha256

NAME = "tuned.json"
VERSION = 2
_PACKAGES = {name: each.PACKAGE for name, each in BACKENDS.items() if hasattr(each, "PACKAGE")}
"""What computes for a backend, and for no other."""


def folder_of(checkpoint: Path) -> Path:
    """Where a checkpoint's tuned file is: in it, if it is a folder, else beside it."""
    return checkpoint / "tuned" if checkpoint.is_dir() else checkpoint.with_name(f"{checkpoint.name}.tuned")


@dataclass(frozen=True)
class Tuned:
    """What a tuned file says: the backend, how it was placed, and the folder with what was kept of it."""

    folder: Path
    backend: str
    kept: bool
    values: Mapping[str, Any]

    @property
    def threads(self) -> int | None:
        """With how many it is quickest; None for all that there are."""
        return self._placed("threads")

    @property
    def rows(self) -> int | None:
        """The most rows of a pass."""
        return self._placed("rows")

    def _placed(self, name: str) -> int | None:
        placement = self.values.get("placement")
        found = placement.get(name) if isinstance(placement, dict) else None
        return found if isinstance(found, int) and found > 0 else None


def write(folder: Path, checkpoint: Path, device: torch.device, found: Mapping[str, Any]) -> Path:
    """Write the file; the files that are in the folder already are what was kept of the backend."""
    folder.mkdir(exist_ok=True)
    kept = {each.name: file_sha256(each) for each in sorted(folder.iterdir()) if each.is_file() and each.name != NAME}
    said = {"version": VERSION, **found, "files": kept, "bound_to": bound_to(checkpoint, device)}
    path = folder / NAME
    path.write_text(json.dumps(said, indent=1) + "\n")
    return path


def read(checkpoint: Path) -> Tuned | None:
    """The tuned file of a checkpoint, where there is one. Raises `MalformedFile`."""
    folder = folder_of(checkpoint)
    path = folder / NAME
    if not path.is_file() or path.is_symlink():
        return None
    said = json_file(path)
    backend, files = said.get("backend"), said.get("files")
    if said.get("version") != VERSION or not isinstance(backend, str) or not isinstance(files, dict):
        raise MalformedFile(f"{path} is of another version, or says no backend", hint="Remove it, or run score tune.")
    return Tuned(folder, backend, bool(files), said)


def difference(tuned: Tuned, checkpoint: Path, device: torch.device) -> str | None:
    """What is other than when the file was written; None where all is the same."""
    said = tuned.values.get("bound_to")
    here = bound_to(checkpoint, device)
    if not isinstance(said, dict):
        return "it does not say what it is for"
    for key, value in here.items():
        computes = key not in _PACKAGES.values() or key == _PACKAGES.get(tuned.backend)
        if computes and said.get(key) != value:
            return f"{key} is {value!s:.60}, and was {said.get(key)!s:.60}"
    for name, digest in tuned.values["files"].items():
        file = contained(tuned.folder, name)
        if not file.is_file() or file_sha256(file) != digest:
            return f"{name} is not what it was"
    return None


def bound_to(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """What a finding holds for."""
    versions = {"loadstone": __version__, "torch": torch.__version__}
    for name in ("transformers", *dict.fromkeys(_PACKAGES.values())):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    return {"checkpoint": _digest(checkpoint), "processor": processor.name(device), **versions}


def _digest(checkpoint: Path) -> str:
    """The SHA-256 of a file; of a folder, that of its files but for the tuned ones."""
    if checkpoint.is_file():
        return file_sha256(checkpoint)
    whole = hashlib.sha256()
    own = folder_of(checkpoint)
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and own not in path.parents:
            whole.update(f"{os.fspath(path.relative_to(checkpoint))}\0{file_sha256(path)}\n".encode())
    return whole.hexdigest()
