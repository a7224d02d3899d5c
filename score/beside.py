"""Python files beside the checkpoint in the model folder: their classes, where the files are trusted.

Often such a file is the training script. Only what it defines and imports is run: not the calls, loops and assignments
from its own functions at its top level, which would train again.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from torch import nn

import models
from score.errors import ArchitectureBroken
from score.named import from_file
from score.trust import Trust, file_sha256

MOST_BYTES = 1_000_000


def classes(path: Path, trust: Trust) -> list[models.Registered]:
    """The modules that trusted files beside a checkpoint define, as if they were registered."""
    found = []
    for file in _files(path):
        if trust.allows(file):
            module = from_file(file, _definitions(file))
            for name, value in vars(module).items():
                if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__:
                    found.append(models.Registered(f"{file.name}:{name}", value))
    return found


def untrusted(path: Path, trust: Trust) -> list[str]:
    """A line for each file that defines classes and is not trusted: what would have to be said. Runs nothing."""
    lines = []
    for file in _files(path):
        names = _defined(file)
        if names and not trust.allows(file):
            lines.append(
                f"{file.name} beside the checkpoint defines {', '.join(names)}; to have it tried, allow it: "
                f"SCORE_TRUST_SHA256={file_sha256(file)}"
            )
    return lines


def _files(path: Path) -> Iterator[Path]:
    for file in sorted((path if path.is_dir() else path.parent).glob("*.py")):
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= MOST_BYTES:
            yield file


def _defined(file: Path) -> list[str]:
    """The names of the classes in a file that derive from something."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.bases]


_DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Try, ast.If)


def _definitions(file: Path) -> ast.Module:
    """A file without what it does. Raises `ArchitectureBroken` for one that is no Python."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArchitectureBroken(f"{file.name} beside the checkpoint can't be read: {error}", hint="Mend it.") from None
    left_out = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}  # as callees
    kept: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, _DEFINING):
            kept.append(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            if left_out & {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}:
                left_out |= _targets(node)  # and whatever is made from it
            else:
                kept.append(node)
        else:
            left_out |= _targets(node)
    return ast.Module(kept, tree.type_ignores)


def _targets(node: ast.stmt) -> set[str]:
    """The names that a statement gives values to."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
