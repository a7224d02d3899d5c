"""`npy`: one array in numpy's own format, in and out; several outputs come back as an npz.

Specification: numpy/lib/format.py. Arrays of Python objects are refused: they are pickles.
"""

from collections.abc import Mapping

from score.codecs import npz
from score.codecs._npy import MAGIC, read_array, write_array
from score.codecs.base import Arrays, Body, Decoded, Encoded

NAME = "npy"
TYPES = ("application/x-npy",)
PRIORITY = 20
EXAMPLES = (("`application/x-npy`: what `numpy.save` writes", "Python", "npy"),)


def accepts(body: Body) -> bool:
    return body.data.startswith(MAGIC) or body.content_type in TYPES


def effort(body: Body) -> int | None:
    return 0 if body.data.startswith(MAGIC) else None  # an array is a view of its body


def decode(body: Body) -> Decoded:
    """Raises `InvalidArray` or `NotNumeric`."""
    return Decoded(read_array(body.data, "the body"), NAME)


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    if isinstance(outputs, Mapping):
        return npz.encode(outputs, decoded)
    return Encoded(write_array(outputs), TYPES[0])
