"""What a GGUF file says before its tensors' bytes: values by key, and each tensor's kind, shape and place.

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

from score.errors import MalformedFile, TruncatedFile, VersionTooOld
from score.formats._gguf.blocks import KINDS
from score.formats._io.source import Source

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_NESTED = 4  # arrays in arrays
MOST_DIMENSIONS = 4  # ggml's own limit
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True)
class Described:
    """One tensor: the number of its kind, its shape in torch's order, and where its `nbytes` lie in the file."""

    kind: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What the file says: `values` by key, and its tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, Described]

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    def own(self) -> dict[str, Any]:
        """What it says of its architecture, by the names without that."""
        start = f"{self.architecture}."
        return {key.removeprefix(start): value for key, value in self.values.items() if key.startswith(start)}


class _Reader:
    """The values at the start of a file, one after the other."""

    def __init__(self, source: Source) -> None:
        self.name, self._data, self.size, self.position = source.name, source.view(), source.size, 0

    def _take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > self.size:
            raise TruncatedFile(f"{self.name}: the header goes on past the file's {self.size:,} bytes")
        return bytes(self._data[start : self.position])

    def number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def count(self, each: int) -> int:
        """How many of something that takes at least `each` bytes follow."""
        found: int = self.number("<Q")
        if found * each > self.size - self.position:
            raise TruncatedFile(f"{self.name}: the header announces {found:,} values, more than the file can hold")
        return found

    def text(self) -> str:
        return self._take(self.count(1)).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = MOST_NESTED) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY or not depth:
            raise MalformedFile(f"{self.name}: a value of the kind {kind}, which GGUF does not have there")
        of: int = self.number("<I")
        if of in _NUMBERS:
            form = _NUMBERS[of][1]
            count = self.count(struct.calcsize(f"<{form}"))
            return list(struct.unpack(f"<{count}{form}", self._take(count * struct.calcsize(f"<{form}"))))
        return [self.value(of, depth - 1) for _ in range(self.count(8))]


def read(source: Source) -> Header:
    """Raises `MalformedFile`, `TruncatedFile`, or `VersionTooOld` for a version that is not known here."""
    reader = _Reader(source)
    if reader._take(4) != MAGIC:
        raise MalformedFile(f"{source.name} does not begin as a GGUF model does")
    version = reader.number("<I")
    if version not in VERSIONS:
        order = " (of the other byte order)" if version and not version & 0xFFFF else ""
        raise VersionTooOld(
            f"{source.name} is a GGUF model of version {version}{order}, and {VERSIONS[0]} to {VERSIONS[-1]} are read",
            hint="Convert it again with a newer llama.cpp.",
        )
    tensors, count = reader.count(24), reader.count(12)
    values: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text()
        if key in values:
            raise MalformedFile(f"{source.name} says {key!r:.100} twice")
        values[key] = reader.value(reader.number("<I"))
    listed = [_listed(reader) for _ in range(tensors)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise MalformedFile(f"{source.name} says {alignment!r:.40} for its alignment")
    start = -(-reader.position // alignment) * alignment
    found: dict[str, Described] = {}
    for name, kind, shape, offset in listed:
        if name in found:
            raise MalformedFile(f"{source.name} has two tensors named {name!r:.100}")
        found[name] = _placed(source, name, kind, shape, start + offset)
    _refuse_overlaps(source, found)
    return Header(values, found)


def _listed(reader: _Reader) -> tuple[str, int, tuple[int, ...], int]:
    name, dimensions = reader.text(), reader.number("<I")
    if dimensions > MOST_DIMENSIONS:
        raise MalformedFile(f"{reader.name}: {name!r:.100} has {dimensions:,} dimensions")
    shape = tuple(reader.number("<Q") for _ in range(dimensions))
    return name, reader.number("<I"), shape[::-1], reader.number("<Q")


def _placed(source: Source, name: str, number: int, shape: tuple[int, ...], offset: int) -> Described:
    kind = KINDS.get(number)
    if kind is None:
        raise VersionTooOld(
            f"{source.name}: {name!r:.100} is of ggml's kind number {number}, which is not known here",
            hint="Take the file in another kind, such as Q4_K_M.",
        )
    elements = math.prod(shape)
    if elements and shape and shape[-1] % kind.elements:
        raise MalformedFile(
            f"{source.name}: rows of {shape[-1]:,} in {name!r:.100}, which are no whole blocks of {kind.name}"
        )
    nbytes = elements // kind.elements * kind.nbytes
    source.check(offset, nbytes, f"the tensor {name!r:.100}")
    return Described(number, shape, offset, nbytes)


def _refuse_overlaps(source: Source, tensors: dict[str, Described]) -> None:
    reached, before = 0, ""
    for name, each in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if each.offset < reached:
            raise MalformedFile(f"{source.name}: the bytes of {before!r:.100} and {name!r:.100} overlap")
        reached, before = each.offset + each.nbytes, name
