"""From AZUREML_MODEL_DIR to one checkpoint: a file, a folder, a folder in a folder. Never a silent guess."""

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from score.errors import (
    ArchiveTooLarge,
    LoadError,
    ModelDirEmpty,
    ModelDirMissing,
    ModelDirUnset,
    NoCheckpoint,
    NoWeights,
    SeveralCheckpoints,
    one_line,
)
from score.formats import archive, gguf, pickle, registry, toolkits
from score.formats._io import unpacked
from score.formats._io.folder import json_file
from score.formats.base import Checkpoint
from score.formats.search import checkpoints_in, leaves, listed, tree, unreadable
from score.settings import Settings
from score.weights.select import holds_weights

# What can't be read and is called so is one of several models, and says under its name why it is not served.
_OF_CHECKPOINTS = frozenset((".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pt2"))
Named = tuple[Path, str]  # a checkpoint's path and format


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
    """The one checkpoint in the model folder, or the one that `SCORE_CHECKPOINT` names; an archive is looked into.

    Raises a `LoadError` with the folder's tree: unset, missing, empty, unreadable, none, or several.
    """
    root = _model_folder(settings)
    with unpacked.at_most(settings.max_unpacked_gb * 1e9):
        if settings.checkpoint:
            return _named(root, settings.checkpoint, settings.read)
        return _the_one(root, settings.read)


def find_checkpoints(settings: Settings) -> list[Found]:
    """Every checkpoint in the model folder that may hold weights, for a server of several models."""
    root = _model_folder(settings)
    found = list(checkpoints_in(root)) if root.is_dir() else [(root, registry.detect(root) or _unknown(root, root))]
    with unpacked.at_most(settings.max_unpacked_gb * 1e9):
        archives = [each for each in found if each[1] == archive.NAME and (len(found) < 2 or _holds_one(each[0]))]
    direct = [each for each in found if registry.servable(each[1]) and each[1] != archive.NAME]
    servable = _with_weights(direct, settings.read, {}, sure=not archives) + archives
    damaged = [each for each in found if not registry.servable(each[1]) and each[0].suffix.lower() in _OF_CHECKPOINTS]
    return [Found(path, format, root) for path, format in sorted(servable + damaged)]


def _adapter_on(found: list[Named], opened: Mapping[Path, Checkpoint]) -> list[Named]:
    """The adapter, of two of which the other is its base model; none of any others."""
    adapters = [each for each in found if each[0] in opened and "adapter" in opened[each[0]].metadata]
    return adapters if len(adapters) == 1 and len(found) == 2 else []


def _of_format(found: list[Named], name: str) -> list[Named]:
    return [each for each in found if each[1] == name]


def _model_folder(settings: Settings) -> Path:
    if settings.model_dir is None:
        raise ModelDirUnset("AZUREML_MODEL_DIR is not set")
    root = Path(os.path.abspath(settings.model_dir))  # noqa: PTH100  # resolve() would follow links
    if not _exists(root):
        raise _missing(root)
    return root


_LATER = (gguf.NAME, pickle.NAME, archive.NAME)  # formats that count where no other does, in this order


def _the_one(root: Path, read: str) -> Found:
    """The one checkpoint in a folder. A copy for llama.cpp is one only where nothing else is; a pickle, which may be
    data as well, where that isn't either; and an archive comes last."""
    if root.is_file():
        return _looked_into(Found(root, registry.detect(root) or _unknown(root, root), root.parent), read)
    found = list(checkpoints_in(root))
    servable = [each for each in found if registry.servable(each[1])]
    direct = [each for each in servable if each[1] not in _LATER]
    copies, pickles, archives = (_of_format(found, name) for name in _LATER)
    opened: dict[Path, Checkpoint] = {}
    ours: list[Named] = []
    for rank in (direct, copies, pickles):
        ours = ours or _with_weights(rank, read, opened, sure=len(rank) == len(servable))
    if not ours and len(archives) > 1:
        ours = [each for each in archives if _holds_one(each[0])]
    ours = _adapter_on(ours, opened) or ours or archives or direct
    candidates = ours or found
    if not candidates:
        raise _nothing(root)
    if len(candidates) > 1:
        kind = SeveralCheckpoints if ours else NoCheckpoint
        what = (
            f"checkpoints{_parts_of(root)}"
            if ours
            else "files that look like models, none of which is a PyTorch checkpoint"
        )
        choices = [{"checkpoint": str(path.relative_to(root))} for path, _ in candidates] if ours else []
        raise kind(f"{root} holds {len(candidates)} {what}", detail=tree(root, notes=dict(found)), choices=choices)
    path, format = candidates[0]
    return _looked_into(Found(path, format, root, opened.get(path)), read)


def _parts_of(root: Path) -> str:
    """What the models of a folder are parts of, where it says so."""
    if (found := toolkits.of(root, {})) is not None:
        return f", the parts of a model of {found.name} ({one_line(found.says)})"
    index = root / "model_index.json"
    if not index.is_file() or index.is_symlink():
        return ""
    try:
        name = json_file(index).get("_class_name")
    except LoadError:  # which says nothing of the models
        return ""
    return f", the parts of a {one_line(str(name)[:80])} of diffusers; each can be served by its name"


def _looked_into(found: Found, read: str) -> Found:
    """An archive with what is in it opened; anything else as it is."""
    if found.format != archive.NAME:
        return found
    with _in_archive(found.path, found.root) as inside:
        inner = _the_one(inside, read)
        return replace(found, checkpoint=archive.packed(inner.opened(read), found.path, inside))


@contextmanager
def _in_archive(path: Path, root: Path) -> Iterator[Path]:
    """The folder with an archive's content. An error names the archive, wherever it was unpacked to."""
    inside = None
    try:
        with unpacked.deeper(path.name):
            inside = archive.folder(path)
            yield inside
    except LoadError as error:
        if inside is not None:
            error.message = error.message.replace(str(inside), str(path))
            error.detail = error.detail.replace(str(inside), str(path))
        within = path.relative_to(root).as_posix()
        if isinstance(error, SeveralCheckpoints):
            error.choices = [{"checkpoint": f"{within}/{choice['checkpoint']}"} for choice in error.choices]
        if path.name not in error.message:
            error.message = f"{path.name}: {error.message}"
        raise


def _holds_one(path: Path) -> bool:
    """Whether an archive among other files may hold a checkpoint; one that can't be read may. Raises
    `ArchiveTooLarge`."""
    try:
        return any(registry.servable(format) for _, format in checkpoints_in(archive.folder(path)))
    except ArchiveTooLarge:
        raise
    except LoadError:
        return True


def _with_weights(found: list[Named], read: str, opened: dict[Path, Checkpoint], *, sure: bool = True) -> list[Named]:
    """Of several, those that may hold weights: a trainer's folder has its optimizer, arguments and random state beside
    them. A single one is taken for what is meant where that is `sure`."""
    if len(found) < 2 and sure:
        return found
    return [(path, format) for path, format in found if _may_hold_weights(path, format, read, opened)]


def _named(root: Path, name: str, read: str) -> Found:
    """The checkpoint that `SCORE_CHECKPOINT` names, be it in an archive: `model.tar.gz/weights/policy.pth`."""
    folder = root if root.is_dir() else root.parent
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder):
        raise NoCheckpoint(f"SCORE_CHECKPOINT={name} leaves the model folder {folder}")
    above = next((parent for parent in path.parents if parent.is_relative_to(folder) and parent.is_file()), None)
    if above is not None and registry.detect(above) == archive.NAME and not leaves(above, folder):
        with _in_archive(above, folder) as inside:
            inner = _named(inside, path.relative_to(above).as_posix(), read)
            return Found(above, archive.NAME, folder, archive.packed(inner.opened(read), above, inside))
    if not path.exists():
        raise NoCheckpoint(f"SCORE_CHECKPOINT={name}: there is no such file in {folder}", detail=tree(folder))
    if leaves(path, folder):
        raise NoCheckpoint(f"SCORE_CHECKPOINT={name} is a link that leaves the model folder {folder}", hint=_LINK_HINT)
    return _looked_into(Found(path, registry.detect(path) or _unknown(path, folder), folder), read)


_LINK_HINT = "Copy the file into the folder, or point AZUREML_MODEL_DIR at where it really is."


def _unknown(path: Path, root: Path) -> str:
    raise NoCheckpoint(f"{path} is not a checkpoint of any kind that is known here", detail=tree(root))


def _may_hold_weights(path: Path, format: str, read: str, opened: dict[Path, Checkpoint]) -> bool:
    """Whether a file could be what is meant; one that can't be read stays a candidate, so that the error lists it."""
    try:
        opened[path] = registry.open_checkpoint(path, read, format)
        return holds_weights(opened[path])
    except LoadError as error:
        return not isinstance(error, NoWeights)


def _exists(path: Path) -> bool:
    try:
        return path.exists() and (path.is_file() or bool(listed(path)) or True)
    except PermissionError:
        raise unreadable(path) from None


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
