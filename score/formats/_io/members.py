"""What an archive holds, by name: tar, zip, and streams that are one compressed file (gzip, bzip2, xz, zstandard).

Names come from the archive, so each is checked before it is a path. Nothing is written here.
Sources: POSIX.1-2001 pax, PKWARE's APPNOTE.
"""

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from score.errors import LoadError, MalformedFile, TruncatedFile, UnsupportedFormat
from score.formats._io import parts, streams
from score.formats._io.source import Source
from score.formats._io.zip import Archive, directory

MOST_MEMBERS = 100_000
MOST_LINK = 4096  # bytes of a path
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name, how long it says it is (None where it does not), where its bytes lie in the
    archive (None where they are compressed), their CRC-32 where the archive has one, and how to read them."""

    name: str
    size: int | None
    place: int | None
    open: Callable[[], BinaryIO]
    crc: int | None = None


def members(source: Source, head: bytes) -> list[Member]:
    """Every file in an archive of any kind. Links inside it are the files that they lead to.

    Raises `MalformedFile` for names and links that leave it, and for what is no file; `TruncatedFile`.
    """
    with damage(source.name):
        if cut := parts.complete(source.path):
            size = sum(each.stat().st_size for each in cut)
            return [Member(parts.name_of(source.path), size, None, lambda: parts.joined(cut))]
        if is_tar(head):
            return _tarred(source)
        if head.startswith(ZIP):
            return _zipped(source)
        kind = streams.stream_of(head)
        assert kind is not None, "members is asked of archives"
        return [Member(kind.name_inside(source.name), None, None, lambda: kind.open(source.file()))]


@contextmanager
def damage(name: str) -> Iterator[None]:
    """What the libraries raise for bytes that are not an archive's, as errors that name the file."""
    try:
        yield
    except LoadError:
        raise
    except EOFError as error:
        raise TruncatedFile(f"{name}: cut short ({error})") from None
    except tarfile.TarError as error:
        raise TruncatedFile(f"{name}: a tar archive cut short or damaged ({error})") from None
    except RuntimeError as error:  # zipfile, of a member that is encrypted
        raise UnsupportedFormat(
            f"{name}: {error}", hint="Unpack it where its password is known, and register what is inside."
        ) from None
    except OSError as error:
        if error.errno is not None:  # the disk's, not the archive's
            raise
        raise MalformedFile(f"{name} is damaged ({error})") from None
    except (zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError, struct.error, OverflowError) as error:
        raise MalformedFile(f"{name} is damaged ({error})") from None


def is_tar(head: bytes) -> bool:
    """Whether a file's first bytes are a tar's header."""
    return head[257:262] == b"ustar"


def _checked(name: str, archive: str) -> str:
    """A member's name as a path below the archive. Raises `MalformedFile` for one that leaves it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise MalformedFile(f"{archive}: a member is named {name!r:.200}, which leaves the archive")
    return str(path)


def _refuse_twins(found: list[Member], archive: str) -> list[Member]:
    names: set[str] = set()
    for member in found:
        if member.name in names:
            raise MalformedFile(f"{archive}: two members are named {member.name!r:.200}")
        names.add(member.name)
    above = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    if both := names & above:
        raise MalformedFile(f"{archive}: {min(both)!r:.200} is a file, and has files in it")
    return found


def _tarred(source: Source) -> list[Member]:
    found: list[Member] = []
    links: dict[str, str] = {}
    with tarfile.open(fileobj=source.file(), mode="r:") as archive:
        for count, info in enumerate(archive):
            if count >= MOST_MEMBERS:
                raise MalformedFile(f"{source.name} holds more than {MOST_MEMBERS:,} members")
            if info.isdir():
                continue
            name = _checked(info.name, source.name)
            if info.issym() or info.islnk():
                links[name] = _target(name if info.issym() else "", info.linkname, source.name)
            elif info.isreg() and not info.issparse():
                source.check(info.offset_data, info.size, f"the member {name!r}")
                part = source.window(info.offset_data, info.size, name)
                found.append(Member(name, info.size, info.offset_data, part.file))
            else:
                raise MalformedFile(f"{source.name}: the member {name!r:.200} is no file, folder or link")
        end = archive.offset
    if not found or source.bytes(end, min(512, source.size - end)).strip(b"\0") or source.size <= end:
        raise TruncatedFile(f"{source.name}: a tar archive without its end")
    return _refuse_twins([*found, *_linked(found, links, source.name)], source.name)


def _target(name: str, link: str, archive: str) -> str:
    """What a link leads to, as a name in the archive: a symbolic one counts from its own folder. Raises
    `MalformedFile`."""
    parts = [] if link.startswith("/") else list(PurePosixPath(name).parts[:-1])
    for part in PurePosixPath(link).parts:
        if part == ".." and parts:
            parts.pop()
        elif part in ("..", "/"):
            raise MalformedFile(f"{archive}: the link {name!r:.200} leads out of the archive, to {link!r:.200}")
        else:
            parts.append(part)
    return _checked("/".join(parts), archive)


def _linked(found: list[Member], links: dict[str, str], archive: str) -> list[Member]:
    """Links as the files that they lead to."""
    files = {member.name: member for member in found}
    made = []
    for name, target in links.items():
        for _ in range(8):  # a link may lead to another
            target = links.get(target, target)
        if target not in files:
            raise MalformedFile(f"{archive}: the link {name!r:.200} leads to {target!r:.200}, which is no file in it")
        made.append(replace(files[target], name=name))
    return made


def _member(source: Source, info: zipfile.ZipInfo) -> Any:
    with zipfile.ZipFile(source.file()) as archive:  # it stays open as long as its member
        return archive.open(info)


def _zipped(source: Source) -> list[Member]:
    infos = directory(source)
    if len(infos) > MOST_MEMBERS:
        raise MalformedFile(f"{source.name} holds more than {MOST_MEMBERS:,} members")
    archive = Archive(source)
    found: list[Member] = []
    links: dict[str, str] = {}
    for info in archive.entries.values():
        name = _checked(info.filename, source.name)
        if info.flag_bits & 1:
            raise RuntimeError(f"the member {name!r:.200} is encrypted")
        if stat.S_ISLNK(info.external_attr >> 16):
            links[name] = _target(name, archive.head(info.filename, MOST_LINK).decode("utf-8", "replace"), source.name)
            continue
        stored = info.compress_type == zipfile.ZIP_STORED
        found.append(
            Member(
                name,
                info.file_size,
                archive.offset(info) if stored else None,
                partial(_member, source, info),
                info.CRC,
            )
        )
    return _refuse_twins([*found, *_linked(found, links, source.name)], source.name)
