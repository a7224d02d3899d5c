"""From AZUREML_MODEL_DIR to one checkpoint: a file, a folder, a folder in a folder. Never a silent guess."""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from score.errors import (
    LoadError,
    ModelDirEmpty,
    ModelDirMissing,
    ModelDirUnreadable,
    ModelDirUnset,
    NoCheckpoint,
    NoWeights,
    SeveralCheckpoints,
    one_line,
)
from score.formats import registry
from score.formats._io.source import resolved
from score.formats.base import Checkpoint
from score.settings import Settings
from score.weights.select import holds_weights

TREE_LINES = 40
# Plainly no checkpoints, whatever is in them; this only saves time, since formats are told by content.
_SKIPPED_SUFFIXES = frozenset(
    {".py", ".pyc", ".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".csv", ".tsv", ".log"}
    | {".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".ipynb", ".sh", ".lock", ".html", ".css", ".js", ".parquet"}
    | {".npy", ".whl", ".proto"}
)
# What can't be read and is called so is one of several models, and says under its name why it is not served.
_OF_CHECKPOINTS = frozenset((".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pt2"))
# KServe's storage initializer links what is on a volume (pvc://) into the folder that it serves: from where, to where.
PLATFORM_LINKS = {Path("/mnt/models"): Path("/mnt/pvc")}
_SKIPPED_FOLDERS = frozenset(("__pycache__", "node_modules", "site-packages", "venv"))


@dataclass(frozen=True)
class Found:
    """A checkpoint and its format, the folder that was searched, and what was opened already to tell it from others."""

    path: Path
    format: str
    root: Path
    checkpoint: Checkpoint | None = None

    def opened(self, read: str) -> Checkpoint:
        """What is in it. Raises a `LoadError`."""
        return self.checkpoint or registry.open_checkpoint(self.path, read, self.format)


def find_checkpoint(settings: Settings) -> Found:
    """The one checkpoint in the model folder, or the one that `SCORE_CHECKPOINT` names.

    Raises a `LoadError` with the folder's tree: unset, missing, empty, unreadable, none, or several.
    """
    if settings.model_dir is None:
        raise ModelDirUnset("AZUREML_MODEL_DIR is not set")
    root = Path(os.path.abspath(settings.model_dir))  # noqa: PTH100  # resolve() would follow links
    if not _exists(root):
        raise _missing(root)
    if settings.checkpoint:
        return _named(root, settings.checkpoint)
    if root.is_file():
        return Found(root, registry.detect(root) or _unknown(root, root), root.parent)
    found = list(_search(root, root))
    servable = [(path, format) for path, format in found if registry.servable(format)]
    opened: dict[Path, Checkpoint] = {}
    ours = _with_weights(servable, settings.read, opened) or servable
    candidates = ours or found
    if not candidates:
        raise _nothing(root)
    if len(candidates) > 1:
        kind = SeveralCheckpoints if ours else NoCheckpoint
        what = "checkpoints" if ours else "files that look like models, none of which is a PyTorch checkpoint"
        choices = [{"checkpoint": str(path.relative_to(root))} for path, _ in candidates] if ours else []
        raise kind(f"{root} holds {len(candidates)} {what}", detail=tree(root, notes=dict(found)), choices=choices)
    path, format = candidates[0]
    return Found(path, format, root, opened.get(path))


def find_checkpoints(settings: Settings) -> list[Found]:
    """Every checkpoint in the model folder that may hold weights, for a server of several models."""
    if settings.model_dir is None:
        raise ModelDirUnset("AZUREML_MODEL_DIR is not set")
    root = Path(os.path.abspath(settings.model_dir))  # noqa: PTH100  # resolve() would follow links
    if not _exists(root):
        raise _missing(root)
    found = list(_search(root, root)) if root.is_dir() else [(root, registry.detect(root) or _unknown(root, root))]
    servable = _with_weights([each for each in found if registry.servable(each[1])], settings.read, {})
    damaged = [each for each in found if not registry.servable(each[1]) and each[0].suffix.lower() in _OF_CHECKPOINTS]
    return [Found(path, format, root) for path, format in sorted(servable + damaged)]


def _with_weights(found: list[tuple[Path, str]], read: str, opened: dict[Path, Checkpoint]) -> list[tuple[Path, str]]:
    """Of several, those that may hold weights: a trainer's folder has its optimizer, arguments and random state beside
    them."""
    if len(found) < 2:
        return found
    return [(path, format) for path, format in found if _may_hold_weights(path, format, read, opened)]


def _named(root: Path, name: str) -> Found:
    folder = root if root.is_dir() else root.parent
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder):
        raise NoCheckpoint(f"SCORE_CHECKPOINT={name} leaves the model folder {folder}")
    if not path.exists():
        raise NoCheckpoint(f"SCORE_CHECKPOINT={name}: there is no such file in {folder}", detail=tree(folder))
    if _leaves(path, folder):
        raise NoCheckpoint(f"SCORE_CHECKPOINT={name} is a link that leaves the model folder {folder}", hint=_LINK_HINT)
    return Found(path, registry.detect(path) or _unknown(path, folder), folder)


_LINK_HINT = "Copy the file into the folder, or point AZUREML_MODEL_DIR at where it really is."


def _unknown(path: Path, root: Path) -> str:
    raise NoCheckpoint(f"{path} is not a checkpoint of any kind that is known here", detail=tree(root))


def _search(folder: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Every checkpoint in `folder`: itself if it is one as a whole, else the files in it. Links out of `root` are not
    followed: whoever packed the model folder does not get to read the rest of the machine."""
    format = registry.detect(folder)
    if format is not None:
        yield folder, format
        return
    for entry in _listed(folder):
        if entry.name.startswith(".") or _leaves(entry, root) or _loops(entry):
            continue
        if entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS:
                yield from _search(entry, root)
        elif entry.is_file() and entry.suffix.lower() not in _SKIPPED_SUFFIXES:
            format = registry.detect(entry)
            if format is not None:
                yield entry, format


def _may_hold_weights(path: Path, format: str, read: str, opened: dict[Path, Checkpoint]) -> bool:
    """Whether a file could be what is meant; one that can't be read stays a candidate, so that the error lists it."""
    try:
        opened[path] = registry.open_checkpoint(path, read, format)
        return holds_weights(opened[path])
    except LoadError as error:
        return not isinstance(error, NoWeights)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except PermissionError:
        raise _unreadable(folder) from None


def _loops(entry: Path) -> bool:
    return entry.is_symlink() and entry.is_dir() and resolved(entry) in entry.parents


def _leaves(entry: Path, root: Path) -> bool:
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


def _exists(path: Path) -> bool:
    try:
        return path.exists() and (path.is_file() or bool(_listed(path)) or True)
    except PermissionError:
        raise _unreadable(path) from None


def _unreadable(path: Path) -> LoadError:
    return ModelDirUnreadable(f"this user (uid {os.getuid()}) may not read {path}")


def _nothing(root: Path) -> LoadError:
    if not any(path.is_file() for path in root.rglob("*")):
        return ModelDirEmpty(f"{root} holds no files", detail=tree(root))
    return NoCheckpoint(f"none of the files in {root} is a checkpoint", detail=tree(root))


def _missing(root: Path) -> ModelDirMissing:
    """A path that is not there: whose fault it is, and what is called nearly the same."""
    by_variable = os.environ.get("AZUREML_MODEL_DIR", "") in (str(root), os.path.relpath(root))
    near = difflib.get_close_matches(root.name, [each.name for each in _siblings(root)], n=3, cutoff=0.6)
    return ModelDirMissing(
        f"{root} does not exist",
        hint=None if by_variable else "Correct the path: it is that of a checkpoint, or of the folder that holds it.",
        detail=_nearest(root),
        choices=[{"path": str(root.parent / name)} for name in near],
    )


def _siblings(path: Path) -> list[Path]:
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


def _nearest(path: Path) -> str:
    """The part of a missing path that does exist, and what is in it: most wrong paths are wrong at the end."""
    above = next((parent for parent in path.parents if parent.exists()), Path("/"))
    return f"it exists up to {above}, which holds:\n{tree(above, depth=1)}"


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
