"""An index of the architectures of all providers, by their keys and shapes: recognition builds nothing.

`fingerprints.json.gz` is written by tools/fingerprints.py with every provider installed. It holds, for each
architecture, a digest of all its keys and shapes; one of those without its head (the last layer, whose size fine-tuning
changes); a sketch to estimate how much of it another set of keys shares (Broder, "On the resemblance and containment of
documents", 1997); and a digest of the module as it prints, by which two that have the same keys are told to be the same
or not.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from score.formats.base import Shapes
from score.weights.align import unwrap

FILE = Path(__file__).with_name("fingerprints.json.gz")
SKETCH = 32  # hashes kept of each architecture

_ADDRESS = re.compile(r"(?i)(drop\w*\()[^()]*\)|( at 0x[0-9a-f]+)|\b(?:p|drop_prob|attention_dropout)=[\d.]+")


@dataclass(frozen=True)
class Fingerprint:
    """What the index knows of an architecture. `head` is the name of its last layer, empty where it has none."""

    name: str
    full: str
    body: str
    head: str
    structure: str
    sketch: np.ndarray
    keys: int


@dataclass(frozen=True)
class Index:
    """All prints, and the versions of the packages that they were made from."""

    versions: Mapping[str, str]
    by_full: Mapping[str, list[Fingerprint]]
    by_body: Mapping[str, list[Fingerprint]]
    heads: tuple[str, ...]
    prints: tuple[Fingerprint, ...]


def relevant(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """What recognition goes by: counters, which older versions do not write, are left out."""
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def digest(shapes: Shapes, without: str = "") -> str:
    """Of the names and shapes in canonical order, leaving a layer out."""
    lines = (f"{name}{list(shape)}" for name, shape in sorted(shapes.items()) if not _within(name, without))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]


def sketch(shapes: Shapes) -> np.ndarray:
    """The smallest hashes of the names with their shapes, ascending: uint32[up to SKETCH]."""
    hashed = (
        hashlib.blake2b(f"{name}{list(shape)}".encode(), digest_size=4).digest() for name, shape in shapes.items()
    )
    return np.unique(np.frombuffer(b"".join(hashed), "<u4"))[:SKETCH]


def resemblance(one: np.ndarray, other: np.ndarray) -> float:
    """The share of names and shapes that two have in common, estimated from their sketches."""
    union = np.union1d(one, other)[:SKETCH]
    return float(np.isin(union, np.intersect1d(one, other)).mean()) if len(union) else 0.0


def structure(module: torch.nn.Module) -> str:
    """A digest of what a module computes as far as it prints: layers, strides, activations; without dropout."""
    return hashlib.sha256(_ADDRESS.sub("", f"{type(module).__qualname__} {module!r}").encode()).hexdigest()[:12]


def head_of(module: torch.nn.Module) -> str:
    """The name of the last linear layer, or of the last 1x1 convolution; empty where there is neither."""
    last = ""
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Linear) or (isinstance(part, torch.nn.Conv2d) and part.kernel_size == (1, 1)):
            last = name
    return last


def views(shapes: Shapes) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """The shapes under the prefixes that may have been put before them: as they are, without wrappers, and without
    each segment that all names begin with."""
    plain = relevant(shapes)
    current = {unwrap(name): shape for name, shape in plain.items()}
    if current.keys() != plain.keys():
        yield "", plain  # a few architectures have a part that is called `module` themselves
    prefix = ""
    while True:
        yield prefix, current
        first = {name.partition(".")[0] for name in current}
        if len(first) != 1 or any("." not in name for name in current):
            return
        segment = first.pop() + "."
        prefix += segment
        current = {name.removeprefix(segment): shape for name, shape in current.items()}


def exact(shapes: Shapes) -> list[Fingerprint]:
    """The architectures with exactly these names and shapes."""
    known = index().by_full
    return next((known[key] for _, view in views(shapes) if (key := digest(view)) in known), [])


def found(shapes: Shapes) -> tuple[list[Fingerprint], str, int]:
    """The architectures with exactly these names and shapes; else those that have all but their head's, with the head's
    name and its new size. Empty where there is none."""
    if prints := exact(shapes):
        return prints, "", 0
    known = index()
    for _, view in views(shapes):
        for head in known.heads:
            size = view.get(f"{head}.weight")
            if size and (prints := [each for each in known.by_body.get(digest(view, head), []) if each.head == head]):
                return prints, head, size[0]
    return [], "", 0


@cache
def index() -> Index:
    """The index that is shipped."""
    document = json.loads(gzip.decompress(FILE.read_bytes()))
    prints = tuple(
        Fingerprint(name, full, body, head, what, np.frombuffer(base64.b64decode(packed), "<u4"), keys)
        for name, full, body, head, what, packed, keys in document["architectures"]
    )
    by_full: dict[str, list[Fingerprint]] = {}
    by_body: dict[str, list[Fingerprint]] = {}
    for found in prints:
        by_full.setdefault(found.full, []).append(found)
        if found.head:
            by_body.setdefault(found.body, []).append(found)
    heads = tuple(sorted({found.head for found in prints if found.head}))
    return Index(document["versions"], by_full, by_body, heads, prints)


def write(prints: list[Fingerprint], versions: Mapping[str, str]) -> None:
    """Write the file, the same bytes for the same prints."""
    rows = [
        (
            one.name,
            one.full,
            one.body,
            one.head,
            one.structure,
            base64.b64encode(one.sketch.tobytes()).decode(),
            one.keys,
        )
        for one in sorted(prints, key=lambda one: one.name)
    ]
    document = json.dumps({"versions": dict(versions), "architectures": rows}, separators=(",", ":"))
    FILE.write_bytes(gzip.compress(document.encode(), mtime=0))


def _within(name: str, layer: str) -> bool:
    return bool(layer) and name.startswith(layer + ".")
