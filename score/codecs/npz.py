"""`npz`: several arrays by name, as numpy.savez writes them, in and out."""

import io
import zipfile
import zlib

from score.codecs._numpy import read_array, write_array
from score.codecs.registry import Body, Decoded, Encoded, Outputs
from score.errors import InvalidArray
from score.outputs import named

NAME = "npz"
TYPES = ("application/x-npz",)
PRIORITY = 20
MOST_EXPANDED = 64  # times the body's own size; arrays of numbers do not shrink further, bombs do


def accepts(body: Body) -> bool:
    return body.data.startswith(b"PK\x03\x04") or body.content_type in TYPES


def decode(body: Body) -> Decoded:
    """Raises `InvalidArray` or `NotNumeric`."""
    try:
        with zipfile.ZipFile(io.BytesIO(body.data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MOST_EXPANDED * len(body.data):
                raise InvalidArray("the archive expands to many times its size")
            arrays = {
                entry.filename.removesuffix(".npy"): read_array(archive.read(entry), entry.filename)
                for entry in entries
            }
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InvalidArray(f"the body is not a whole npz archive ({error})") from None
    return Decoded(arrays, NAME)


def encode(outputs: Outputs, decoded: Decoded) -> Encoded:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:  # not numpy.savez, which takes names as its own arguments
        for name, values in named(outputs).items():
            archive.writestr(f"{name}.npy", write_array(values))
    return Encoded(written.getvalue(), TYPES[0])
