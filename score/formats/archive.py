"""`archive`: a checkpoint in a tar, a zip, or a file compressed as a whole (gzip, bzip2, xz, zstandard), in several,
or cut into parts.

SageMaker and AllenNLP keep `model.tar.gz`, NeMo `.nemo`, Stable-Baselines3 a zip. It is read as the folder that it
holds: stored members where they are, others inflated once (`_io.unpacked`).
"""

from dataclasses import replace
from pathlib import Path

from score.errors import NoCheckpoint, SeveralCheckpoints
from score.formats._io import members, parts, streams, unpacked
from score.formats.base import Checkpoint, Packed
from score.formats.probe import Probe

NAME = "archive"
PRIORITY = -200  # what is an archive of its own kind is read as that
SERVABLE = True
# What is read through `Source` alone.
_STAYS = frozenset(("torch-zip", "torch-legacy", "safetensors", "npz", "gguf", NAME))


def detect(probe: Probe) -> bool:
    return members.is_tar(probe.head) or streams.stream_of(probe.head) is not None or bool(probe.names)


def open(path: Path, read: str) -> Checkpoint:
    """The one checkpoint in an archive. Raises `NoCheckpoint` or `SeveralCheckpoints`, with what it holds."""
    from score.formats.registry import open_checkpoint, servable
    from score.formats.search import checkpoints_in, tree  # they look for every format, this one too

    with unpacked.deeper(path.name):
        root = folder(path)
        found = list(checkpoints_in(root))
        ours = [each for each in found if servable(each[1])] or found
        if not ours:
            raise NoCheckpoint(f"{path.name} holds no checkpoint", detail=tree(root))
        if len(ours) > 1:
            raise SeveralCheckpoints(f"{path.name} holds {len(ours)} checkpoints", detail=tree(root, notes=dict(ours)))
        return packed(open_checkpoint(ours[0][0], read, ours[0][1]), path, root)


def folder(path: Path) -> Path:
    """The folder with an archive's content; of a tar that is compressed, that of the tar. Raises `ArchiveTooLarge`,
    `MalformedFile`, `TruncatedFile`."""
    from score.formats.registry import detect as detected

    head = Probe(path).head
    root = unpacked.folder_of(path, head, lambda member: detected(member) in _STAYS)
    if streams.stream_of(head) is not None or parts.of(path):
        (only,) = root.iterdir()
        if detected(only) == NAME and (parts.of(path) or members.is_tar(Probe(only).head)):
            return folder(only)
    return root


def packed(inner: Checkpoint, path: Path, root: Path) -> Checkpoint:
    """A checkpoint that was found in an archive at `path`, whose content is in `root`."""
    below = inner.packed.member if inner.packed else ""
    at = inner.packed.path if inner.packed else inner.path
    name = "/".join(part for part in (at.relative_to(root).as_posix(), below) if part and part != ".")
    said = {"inner_format": inner.format, **({"member": name} if name else {})}
    return replace(
        inner,
        format=NAME,
        metadata={**said, **inner.metadata},
        packed=Packed(path, inner.packed.root if inner.packed else root, name),
    )
