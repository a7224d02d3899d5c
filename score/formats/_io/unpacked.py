"""Archives as folders, below the temporary folder. What is compressed is written there once; what is stored is not.

A large member that the archive holds as it is gets a path, and stays where it is (`placed`). Processes that open the
same archive share its folder, and the last one that ends removes it; what a killed one left, the next one does.
"""

import atexit
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from score.errors import ArchiveTooLarge, MalformedFile, TruncatedFile
from score.formats._io import members, parts, placed
from score.formats._io.members import Member
from score.formats._io.placed import Place
from score.formats._io.source import Source

WORTH_PLACING = 1 << 20  # bytes of a member; a smaller one is copied sooner than looked at
MOST_NESTED = 4  # archives in archives
PIECE = 1 << 20
_PLACES, _COMPLETE = "places.json", "complete"


@dataclass
class Budget:
    """How many bytes may be written yet, and how many archives may lie in each other."""

    most: int
    left: int
    nested: int = MOST_NESTED

    def spend(self, nbytes: int) -> None:
        self.left -= nbytes
        if self.left < 0:
            raise ArchiveTooLarge(f"it holds more than {self.most / 1e9:,.4g} GB that has to be unpacked")


DEFAULT_GB = 20.0
_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def at_most(nbytes: float) -> Iterator[None]:
    """What is unpacked within takes no more than so many bytes. An outer limit holds, where there is one."""
    if _budget.get() is not None:
        yield
        return
    token = _budget.set(Budget(int(nbytes), int(nbytes)))
    try:
        yield
    finally:
        _budget.reset(token)


@contextmanager
def deeper(name: str) -> Iterator[Budget]:
    """The budget for an archive in an archive. Raises `MalformedFile` for one too many."""
    with at_most(DEFAULT_GB * 1e9):
        budget = _budget.get()
        assert budget is not None
        if budget.nested == 0:
            raise MalformedFile(f"{name}: an archive in more than {MOST_NESTED} others")
        budget.nested -= 1
        try:
            yield budget
        finally:
            budget.nested += 1


def folder_of(path: Path, head: bytes, stays: Callable[[Path], bool]) -> Path:
    """The folder with an archive's content. `stays` says of a member's path whether all that read it do so through
    `Source`, so that its bytes can stay in the archive.

    Raises `ArchiveTooLarge`, `MalformedFile`, `TruncatedFile`.
    """
    source = Source(path)
    home = _home() / _key(source)
    content = home / path.name
    with deeper(path.name) as budget, _one_at_a_time:
        if home not in _held:
            _held[home] = _take(home, lambda: _fill(home, source, head, content, budget, stays))
            for name, (real, start, size) in json.loads((home / _PLACES).read_text()).items():
                placed.put(content / name, Place(Path(real), start, size))
        else:
            budget.spend(_on_disk(content))
    return content


def made_of(source: Source, name: str, fill: Callable[[Path], None]) -> Path:
    """A folder that `fill` makes of a file: made once, shared and removed as an archive's."""
    home = _home() / _key(source, name)
    content = home / name

    def make() -> None:
        shutil.rmtree(home, ignore_errors=True)  # what a killed process began
        content.mkdir(parents=True, mode=0o700)
        fill(content)
        (home / _COMPLETE).touch()

    with _one_at_a_time:
        if home not in _held:
            _held[home] = _take(home, make)
    return content


_held: dict[Path, int] = {}  # the folders that this process uses, with the descriptors of their locks
_one_at_a_time = threading.RLock()


def _on_disk(content: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in content.rglob("*") if file.is_file())


def _key(source: Source, what: str = "") -> str:
    """A name that is another one as soon as the archive is another one."""
    place = source.place
    said = (str(place.path.absolute()), source.name, place.start, place.size, what)
    found = [each.stat() for each in (place.path, *parts.of(source.path))]
    identity = [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found]
    return hashlib.sha256(repr((said, identity)).encode()).hexdigest()[:24]


@cache
def _home() -> Path:
    """The folder for this user's archives: nobody else's to write to."""
    temporary = Path(tempfile.gettempdir()).resolve()
    shared = temporary / f"loadstone-{os.getuid()}"
    with contextlib.suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        found = shared.lstat()
        if found.st_uid == os.getuid() and found.st_mode & 0o170077 == 0o040000:
            _sweep(shared)
            return shared
    return Path(tempfile.mkdtemp(prefix="loadstone-", dir=temporary))


def _sweep(shared: Path) -> None:
    """Remove what processes left that were killed: nobody holds its lock."""
    for lock in shared.glob("*.lock"):
        _release(lock.with_suffix(""))


def _take(home: Path, fill: Callable[[], None]) -> int:
    """Have a folder filled, by this process or another, and keep it as long as this one lives: the descriptor of its
    lock, which whoever uses the folder shares and whoever fills or removes it has alone."""
    lock = home.with_name(f"{home.name}.lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not (home / _COMPLETE).exists():
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is(descriptor, lock) and not (home / _COMPLETE).exists():
                    fill()
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is(descriptor, lock) and (home / _COMPLETE).exists():
                atexit.register(_release, home, descriptor, os.getpid())
                return descriptor
        except BaseException:
            lock.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed while this one waited


def _is(descriptor: int, lock: Path) -> bool:
    """Whether a lock is still the one at its path."""
    try:
        return os.fstat(descriptor).st_ino == lock.stat().st_ino
    except FileNotFoundError:
        return False


def _fill(
    home: Path, source: Source, head: bytes, content: Path, budget: Budget, stays: Callable[[Path], bool]
) -> None:
    shutil.rmtree(home, ignore_errors=True)  # what a killed process began
    content.mkdir(parents=True, mode=0o700)
    try:
        places = _write(source, head, content, budget, stays)
        (home / _PLACES).write_text(json.dumps(places))
        (home / _COMPLETE).touch()
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise


def _release(home: Path, descriptor: int | None = None, owner: int | None = None) -> None:
    """Remove a folder that no other process uses."""
    if owner not in (None, os.getpid()):  # a copy of the process that opened it
        return
    lock = home.with_name(f"{home.name}.lock")
    with contextlib.suppress(OSError):
        held = os.open(lock, os.O_RDWR) if descriptor is None else descriptor
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(home, ignore_errors=True)
            lock.unlink(missing_ok=True)
        finally:
            os.close(held)


def _write(
    source: Source, head: bytes, content: Path, budget: Budget, stays: Callable[[Path], bool]
) -> dict[str, tuple[str, int, int]]:
    """Fill a folder; which of its files have their bytes in the archive, and where."""
    places = {}
    for member in members.members(source, head):
        target = content / member.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            place = _placed(source, member, target, stays)
            if place is not None:
                places[member.name] = (str(place.path), place.start, member.size or 0)
            else:
                _copy(source, member, target, budget)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ArchiveTooLarge(f"{content.name} does not fit on the disk of {tempfile.gettempdir()}") from None
            if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
                raise MalformedFile(f"{content.name}: {member.name!r:.200} can't be a file's name") from None
            raise
    return places


def _placed(source: Source, member: Member, target: Path, stays: Callable[[Path], bool]) -> Place | None:
    """A member's path, with its bytes left in the archive; None where they can't be."""
    if member.place is None or member.size is None or member.size < WORTH_PLACING:
        return None
    window = source.window(member.place, member.size)
    with target.open("xb") as file:
        file.truncate(member.size)
    placed.put(target, window.place)
    if stays(target):
        if member.crc is not None and window.bytes(0, 4) != members.ZIP:  # a zip checks its own
            _require(member, _crc(window))
        return window.place
    placed.forget(target)
    target.unlink()
    return None


def _crc(source: Source) -> int:
    """The CRC-32 of a source's bytes."""
    found = 0
    with source.file() as file:
        while piece := file.read(PIECE):
            found = zlib.crc32(piece, found)
    return found


def _require(member: Member, crc: int) -> None:
    if member.crc != crc:
        raise MalformedFile(f"the member {member.name!r:.200} is damaged: its checksum is not that of its bytes")


def _copy(source: Source, member: Member, target: Path, budget: Budget) -> None:
    written = 0
    with members.damage(source.name), target.open("xb") as file, contextlib.closing(member.open()) as content:
        while piece := content.read(PIECE):
            budget.spend(len(piece))
            file.write(piece)
            written += len(piece)
    if member.size is not None and written != member.size:
        raise TruncatedFile(
            f"{source.name}: the member {member.name!r:.200} has {written:,} bytes instead of {member.size:,}"
        )
