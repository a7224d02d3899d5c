"""`npz`: several arrays by name, as numpy.savez writes them, in and out."""

import io
import zipfile
import zlib

from score.codecs._npy import read_array, write_array
from score.codecs.base import Arrays, Body, Decoded, Encoded, named
from score.errors import InvalidArray

NAME = "npz"
TYPES = ("application/x-npz",)
PRIORITY = 20
EXAMPLES = (("`application/x-npz`: what `numpy.savez(file, name=array)` writes, for several inputs", "Python", "npz"),)
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others are inflated without a limit
MOST_EXPANDED = 64  # times the body's own size; arrays of numbers do not shrink further, bombs do


def accepts(body: Body) -> bool:
    return body.data.startswith(b"PK\x03\x04") or body.content_type in TYPES


def effort(body: Body) -> int | None:
    if not body.data.startswith(b"PK\x03\x04"):
        return None
    stored = int.from_bytes(body.data[8:10], "little") == zipfile.ZIP_STORED
    return len(body.data) * (1 if stored else MOST_EXPANDED)


def decode(body: Body) -> Decoded:
    """Raises `InvalidArray` or `NotNumeric`."""
    try:
        with zipfile.ZipFile(io.BytesIO(body.data)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type not in _BOUNDED for entry in entries):
                raise InvalidArray("the archive is compressed in another way than numpy does")
            if sum(entry.file_size for entry in entries) > min(MOST_EXPANDED * len(body.data), body.limit):
                raise InvalidArray("the archive expands to many times its size, or to more than a body may have")
            arrays = {
                entry.filename.removesuffix(".npy"): read_array(_read(archive, entry), entry.filename)
                for entry in entries
            }
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InvalidArray(f"the body is not a whole npz archive ({error})") from None
    return Decoded(arrays, NAME)


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """What an entry holds, and no more of it than it says."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size)
        if len(content) != entry.file_size or file.read(1):
            raise InvalidArray(f"{entry.filename} is not as long as the archive says")
    return content


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:  # not numpy.savez, which takes names as its own arguments
        for name, values in named(outputs).items():
            archive.writestr(f"{name}.npy", write_array(values))
    return Encoded(written.getvalue(), TYPES[0])
