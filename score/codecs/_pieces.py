"""Large arrays as JSON, a piece at a time: while orjson writes, no other thread can run."""

from typing import Any

import numpy as np
import orjson

PIECE = 1 << 16  # numbers: a few milliseconds


def fragment(values: np.ndarray) -> Any:
    """What to give to orjson for an array: itself where it is small, else its text."""
    return values if values.size <= PIECE or values.dtype.kind not in "biuf" else orjson.Fragment(_text(values))


def _text(values: np.ndarray) -> bytes:
    if values.size <= PIECE or values.ndim == 0:
        return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    if values.ndim > 1 and values[0].size > PIECE:
        return b"[" + b",".join(_text(row) for row in values) + b"]"
    rows = max(1, PIECE // max(1, values[0].size))
    parts = (_text(values[at : at + rows])[1:-1] for at in range(0, len(values), rows))
    return b"[" + b",".join(parts) + b"]"
