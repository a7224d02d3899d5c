"""`gguf`: a model of llama.cpp's. Its weights are the numbers that its blocks stand for, under transformers' names
where its architecture is known.

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. By hand, though transformers reads them too:
that fills in what a file does not say, and leaves out what it does not know.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from score.errors import MalformedFile, NoWeights
from score.formats import dtypes
from score.formats._gguf import blocks, models, tokenizer
from score.formats._gguf.header import MAGIC, Described, Header, read
from score.formats._io import unpacked
from score.formats._io.folder import within
from score.formats._io.source import Source, as_bytes
from score.formats._pickle.rebuild import StorageRef, row_major, strided
from score.formats.base import NOTHING_BESIDE, Beside, Checkpoint, DescribedWeights, TensorRef, computed
from score.formats.llama_consolidated import in_halves
from score.formats.probe import Probe

NAME = "gguf"
PRIORITY = 0
SERVABLE = True
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf\Z")  # one file of several
MOST_PARTS = 1000
MOST_SHOWN = 1000  # characters of a text among the metadata


def detect(probe: Probe) -> bool:
    if not probe.head.startswith(MAGIC):
        return False
    part = _PART.match(probe.path.name)
    first = part and probe.path.with_name(f"{part[1]}-00001-of-{part[3]}.gguf")
    return not first or first == probe.path or not first.exists()  # the others belong to the first


def open(path: Path, read: str) -> Checkpoint:
    """Raises `MalformedFile`, `TruncatedFile`, `VersionTooOld`, or `NoWeights` for what holds no model's weights."""
    header, own = _all_parts(path, read)
    if (kind := header.values.get("general.type", "model")) != "model":
        raise NoWeights(
            f"{path.name} is a GGUF file of the kind {kind!r:.40}, which is a part of a model", hint=models.WAY_OUT
        )
    if models.FREQUENCIES in own:
        said = own[models.FREQUENCIES].load().flatten().tolist()
        header = replace(header, values={**header.values, models.FREQUENCIES: said})
    tree = _named(header, own) if header.architecture in models.CLASSES else own
    return DescribedWeights(
        NAME, path, tree, metadata=_metadata(header), beside=_beside(path, header), model=models.factory(header, tree)
    )


def _beside(path: Path, header: Header) -> Beside:
    """The file's own tokenizer, unless one lies beside the file."""
    if any((path.parent / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return NOTHING_BESIDE
    if header.architecture not in models.CLASSES or not tokenizer.known(header):
        return NOTHING_BESIDE
    return Beside(tokenizer=unpacked.made_of(Source(path), "tokenizer", partial(tokenizer.write, header)))


def _all_parts(path: Path, how: str) -> tuple[Header, dict[str, TensorRef]]:
    """What a file says, and its tensors, with those of the files that it goes on in."""
    source = Source(path, how)
    header = read(source)
    own = {name: _tensor(source, name, each) for name, each in header.tensors.items()}
    count = header.values.get("split.count", 1)
    if count in (0, 1):
        return header, own
    part = _PART.match(path.name)
    if part is None or not isinstance(count, int) or not 1 < count <= MOST_PARTS or int(part[3]) != count:
        raise MalformedFile(f"{path.name} is a part of {count!r:.20}, and its name does not say which")
    if header.values.get("split.no") != 0 or int(part[2]) != 1:
        raise MalformedFile(f"{path.name} is not the first part of its model, which is missing")
    tensors = dict(header.tensors)
    for number in range(2, count + 1):
        there = Source(within(path.parent, f"{part[1]}-{number:05d}-of-{part[3]}.gguf"), how)
        more = read(there)
        if more.values.get("split.no") != number - 1 or more.values.get("split.count") != count:
            raise MalformedFile(f"{there.name} says that it is another part than its name does")
        if double := own.keys() & more.tensors.keys():
            raise MalformedFile(f"{there.name} holds {sorted(double)[0]!r:.100}, as another part does")
        own |= {name: _tensor(there, name, each) for name, each in more.tensors.items()}
        tensors |= more.tensors
    if header.values.get("split.tensors.count", len(own)) != len(own):
        raise MalformedFile(f"{path.name} and what follows hold {len(own)} tensors, another number than it says")
    return replace(header, tensors=tensors), own


def _tensor(source: Source, name: str, each: Described) -> TensorRef:
    kind = blocks.KINDS[each.kind]
    if kind.name in blocks.DTYPES:
        storage = StorageRef.within(source, blocks.DTYPES[kind.name], each.offset, each.nbytes)
        return strided(storage, 0, each.shape, row_major(each.shape))

    def load() -> torch.Tensor:
        content = as_bytes(source.storage(each.offset, each.nbytes)).numpy()
        return torch.from_numpy(blocks.numbers(content, each.kind)).reshape(each.shape)

    return computed("float32", each.shape, load)


def _named(header: Header, own: dict[str, TensorRef]) -> dict[str, TensorRef]:
    """The tensors under transformers' names, all of one dtype. One that has no name there is left under its own: that
    the class has no place for it is seen when the two are matched."""
    dtype = _dtype(header, own)
    tree: dict[str, TensorRef] = {}
    for name, ref in own.items():
        if name == models.FREQUENCIES:
            continue
        heads = models.heads_of(header, name)
        turned = ref if heads is None else in_halves(ref, heads, name)
        tree[models.renamed(name) or name] = _as(turned, dtype)
    return tree


def _dtype(header: Header, own: dict[str, TensorRef]) -> str:
    """One for all: that of the matrices, where it holds the vectors, which a converter widens, exactly; else float32,
    which holds whatever a block stands for."""
    matrices = {each.kind for each in header.tensors.values() if len(each.shape) > 1}
    name = blocks.DTYPES.get(blocks.KINDS[matrices.pop()].name) if len(matrices) == 1 else None
    if name not in ("float16", "bfloat16"):
        return "float32"
    dtype = dtypes.of(name)
    vectors = [own[key].load() for key, each in header.tensors.items() if len(each.shape) < 2]
    return name if all(torch.equal(each.to(dtype).to(each.dtype), each) for each in vectors) else "float32"


def _as(ref: TensorRef, dtype: str) -> TensorRef:
    return ref if ref.dtype_name == dtype else computed(dtype, ref.shape, partial(_converted, ref, dtype))


def _converted(ref: TensorRef, dtype: str) -> torch.Tensor:
    return ref.load().to(dtypes.of(dtype))


def _metadata(header: Header) -> dict[str, Any]:
    """What the file says, but for its long lists, and the kinds of its tensors."""
    plain = {
        key: value[:MOST_SHOWN] if isinstance(value, str) else value
        for key, value in header.values.items()
        if isinstance(value, (str, int, float, bool)) and value == value  # NaN is no JSON
    }
    kinds = Counter(blocks.KINDS[each.kind].name for each in header.tensors.values())
    return {"tensors_of": dict(kinds.most_common()), **plain}
