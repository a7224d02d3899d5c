"""Every name that a file's pickles would import, whatever else is to be said of the file.

A refusal must not hide a danger: a file that is damaged, foreign, or only data may carry a pickle that runs a command,
behind the first one, or in a member of an archive. Each is gone through by the machine that runs nothing, as far as it
can be read; what it had named by then counts.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from score.errors import ScoreError
from score.formats._io.members import is_tar
from score.formats._io.source import Source
from score.formats._pickle.inert import Restricted
from score.formats._pickle.read import no_storages
from score.formats._pickle.rebuild import StorageRef
from score.formats._pickle.vm import Unpickler

MAX_STREAMS = 64  # pickles that follow each other in one file
MAX_MEMBER = 64 << 20  # bytes of an archive's member that are gone through
MAX_MEMBERS, MAX_FILES, MAX_DEPTH = 2000, 200, 3

_BINARY = re.compile(rb"\x80[\x00-\x05]")
# A pickle of protocol 0 or 1 begins with what it pushes; a name that is called is `c` or `i`, a module and a name.
_TEXT = re.compile(rb"[(\]})\[ldt0-9]{0,4}[ci][A-Za-z_][\w.]*\r?\n[A-Za-z_][\w.]*\r?\n")
_PROTOCOL_1 = re.compile(rb"[}\])]q\x00")  # what is empty and is to be filled, and its place in the memo
_MARKED = re.compile(rb"\((?:[dlt]p?\d*\n|lp|dp|S'|V|I\d|c)")


def is_pickle(head: bytes) -> bool:
    """Whether bytes begin as a pickle does, of any protocol."""
    return bool(_BINARY.match(head) or _TEXT.match(head) or _MARKED.match(head) or _PROTOCOL_1.match(head))


def names(path: Path) -> list[str]:
    """The names in all pickles of a file, or of the files in a folder, in the order in which they are found."""
    found: dict[str, None] = {}
    files = [path] if not path.is_dir() else sorted(item for item in path.rglob("*") if item.is_file())[:MAX_FILES]
    for file in files:
        if not file.is_symlink() or path == file:
            try:
                found.update(dict.fromkeys(_of_file(file)))
            except (ScoreError, OSError):
                continue  # it is named by the refusal; what can't be opened can't be unpickled
    return list(found)


def _of_file(path: Path) -> Iterator[str]:
    source = Source(path)
    if not source.size:
        return
    yield from _of_bytes(source.view(), source.file(), MAX_DEPTH)


def _of_bytes(data: Any, file: BinaryIO, depth: int) -> Iterator[str]:
    head = bytes(data[:4096])
    if depth and head.startswith(b"PK\x03\x04"):
        yield from _of_members(_zipped(file), depth)
    elif depth and is_tar(head):
        yield from _of_members(_tarred(file), depth)
    else:
        yield from _of_streams(data)


def _of_members(members: Iterator[bytes], depth: int) -> Iterator[str]:
    for content in members:
        if is_pickle(content[:4096]) or content.startswith(b"PK\x03\x04"):
            yield from _of_bytes(content, io.BytesIO(content), depth - 1)


def _zipped(file: BinaryIO) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist()[:MAX_MEMBERS]:
                try:
                    with archive.open(info) as member:
                        head = member.read(16)
                        if is_pickle(head + b"\n") or head.startswith(b"PK") or _could_be_text(head):
                            yield head + member.read(MAX_MEMBER)
                except Exception:  # noqa: BLE001, S112  # a damaged member makes zipfile raise anything
                    continue
    except Exception:  # noqa: BLE001  # so does a damaged directory
        return


def _tarred(file: BinaryIO) -> Iterator[bytes]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for _, member in zip(range(MAX_MEMBERS), archive, strict=False):
                if member.isreg() and (content := archive.extractfile(member)) is not None:
                    yield content.read(MAX_MEMBER)
    except Exception:  # noqa: BLE001  # a damaged header makes tarfile raise anything
        return


def _could_be_text(head: bytes) -> bool:
    return head[:1] in b"(ci]}[" and all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head)


def _of_streams(data: Any) -> Iterator[str]:
    """The pickles that follow each other from the beginning, and those that begin after bytes that are none."""
    position, size = 0, len(data)
    for _ in range(MAX_STREAMS):
        if position >= size or not is_pickle(bytes(data[position : position + 4096])):
            return
        policy = Restricted(size)
        machine = Unpickler(data, policy, _any_storage, position=position, name="a pickle")
        try:
            machine.load()
        except (ScoreError, RecursionError):
            yield from policy.unsafe
            return
        yield from policy.unsafe
        if machine.position <= position:
            return
        position = machine.position


def _any_storage(pid: Any) -> Any:
    """Whatever a pickle names from elsewhere: a storage that is never read, or what it says itself."""
    if isinstance(pid, tuple) and pid[:1] == ("storage",):
        return StorageRef("uint8", 1 << 62, lambda: no_storages("", "uint8", 0).untyped)
    return None
