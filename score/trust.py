"""The one policy on running code that comes from a model file: not without leave."""

import contextlib
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from score.errors import UntrustedCode


@dataclass(frozen=True)
class Trust:
    """What the operator allowed: everything (`code`), or the files with these SHA-256 digests."""

    code: bool = False
    sha256: frozenset[str] = frozenset()

    def allows(self, path: Path) -> bool:
        """Whether code from the file at `path` may run. The file is hashed only if digests are set."""
        return self.code or (bool(self.sha256) and sha256(path) in self.sha256)

    def require(self, path: Path, *, what: str, imports: Sequence[str] = ()) -> None:
        """Raise `UntrustedCode`, saying `what` would run and naming `imports`, unless `path` is allowed."""
        if self.allows(path):
            return
        digest = sha256(path)
        detail = [f"it would import or run: {name}" for name in imports] + [f"sha256: {digest}"]
        raise UntrustedCode(
            f"{path.name}: {what}, which runs code from the file",
            hint="If you know where the file comes from, allow exactly it with "
            f"SCORE_TRUST_SHA256={digest} (or any file with SCORE_TRUST_CODE=true).",
            detail="\n".join(detail),
        )


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    begun = _BEGUN.pop(path.resolve(), None)
    if begun is not None:
        thread, found = begun
        thread.join()
        if found:
            return found[0]
    return _digest(path, piece=1 << 18)


def _digest(path: Path, piece: int) -> str:
    """Hash `piece` bytes at a time: few fit into the processor's cache, many leave the interpreter to other threads."""
    digest, buffer = hashlib.sha256(), bytearray(min(piece, max(path.stat().st_size, 1)))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


_BEGUN: dict[Path, tuple[threading.Thread, list[str]]] = {}
WORTH_A_THREAD = 50_000_000  # bytes


def begin_sha256(path: Path) -> None:
    """Begin to hash a large file, or the largest one in a folder, while the caller imports torch; `file_sha256` then
    only waits for the rest. What goes wrong here goes wrong again there, and is reported there."""
    try:
        files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
        largest = max(files, key=lambda file: file.stat().st_size, default=None)
        if largest is None or largest.stat().st_size < WORTH_A_THREAD:
            return
    except OSError:
        return
    found: list[str] = []

    def work() -> None:
        with contextlib.suppress(OSError):
            found.append(_digest(largest, piece=32 << 20))

    thread = threading.Thread(target=work, daemon=True)  # a refused file is not waited for
    thread.start()
    _BEGUN[largest.resolve()] = (thread, found)


def sha256(path: Path) -> str:
    """A file's digest; for a folder, that of its files' names and digests, as `sha256sum` lists them by name."""
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(item for item in path.rglob("*") if item.is_file())
    lines = (f"{file_sha256(file)}  {file.relative_to(path)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
