"""Python files beside the checkpoint in the model folder: their classes, where the files are trusted.

Often such a file is the training script. Only what it defines and imports is run (`score.imports.definitions`).
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import loadstone_models as models
from torch import nn

from score import log
from score.architectures.import_string import from_file
from score.errors import ArchitectureBroken
from score.formats.base import Checkpoint
from score.weights.hashing import file_sha256
from score.weights.trust import Trust

MOST_BYTES = 1_000_000


def classes(checkpoint: Checkpoint, trust: Trust) -> list[models.Registered]:
    """The modules that trusted files beside a checkpoint define, as if they were registered."""
    found = []
    for file in files(checkpoint):
        if trust.allows(file):
            try:
                module = from_file(file)
            except ArchitectureBroken as error:  # another may fit
                log.warning("%s", error.message)
                continue
            for name, value in vars(module).items():
                if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__:
                    found.append(models.Registered(f"{file.name}:{name}", value))
    return found


def untrusted(checkpoint: Checkpoint, trust: Trust) -> list[str]:
    """A line for each file that defines classes and is not trusted: what would have to be said. Runs nothing."""
    lines = []
    for file in files(checkpoint):
        names = _defined(file)
        if names and not trust.allows(file):
            lines.append(
                f"{file.name} beside the checkpoint defines {', '.join(names)}; to have it tried, allow it: "
                f"SCORE_TRUST_SHA256={file_sha256(file)}"
            )
    return lines


def files(checkpoint: Checkpoint) -> Iterator[Path]:
    """The Python files beside a checkpoint, or in its folder; of one in an archive, those beside the archive too."""
    folders = dict.fromkeys(path if path.is_dir() else path.parent for path in (checkpoint.path, checkpoint.origin))
    for file in (file for folder in folders for file in sorted(folder.glob("*.py"))):
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= MOST_BYTES:
            yield file


def _defined(file: Path) -> list[str]:
    """The names of the classes in a file that derive from something."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.bases]
