"""The body formats: every module of this package that has a `NAME`.

To add one, add a file here with `NAME`, `accepts(content_type, body)`, `decode(body)` and `encode(outputs, decoded)`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

import score.codecs
from score.errors import EmptyBody, UnsupportedMediaType

Outputs = Mapping[str, np.ndarray] | np.ndarray


@dataclass(frozen=True)
class Decoded:
    """A request's arrays (one, or by input name), and the dialect that the answer mirrors."""

    arrays: np.ndarray | Mapping[str, np.ndarray]
    dialect: str


@dataclass(frozen=True)
class Encoded:
    """An answer's body and its content type."""

    body: bytes
    content_type: str


class Codec(Protocol):
    """What a module in `score.codecs` offers."""

    NAME: str

    def accepts(self, content_type: str, body: bytes) -> bool: ...
    def decode(self, body: bytes) -> Decoded: ...
    def encode(self, outputs: Outputs, decoded: Decoded) -> Encoded: ...


@cache
def codecs() -> dict[str, Codec]:
    """All codecs by name."""
    modules = (
        importlib.import_module(f"{score.codecs.__name__}.{info.name}")
        for info in pkgutil.iter_modules(score.codecs.__path__)
    )
    return {module.NAME: module for module in modules if hasattr(module, "NAME")}


def choose(content_type: str, body: bytes) -> Codec:
    """The codec for a body, told by its content first. Raises `EmptyBody` or `UnsupportedMediaType`."""
    if not body:
        raise EmptyBody("the body is empty")
    for codec in codecs().values():
        if codec.accepts(content_type, body):
            return codec
    raise UnsupportedMediaType(
        f"the body is {content_type or 'of no stated type'}; accepted are {', '.join(sorted(codecs()))}"
    )
