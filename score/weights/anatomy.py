"""What a person wants to see of some weights: a tree of modules, where the bytes are, and what is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from score.formats.base import TensorRef
from score.formats.search import size
from score.weights.progress import Track
from score.weights.select import Candidate

MAX_PARTS = 60  # of a name; the rest of it is one
SAMPLES = 6  # names that a remark lists
HEAVY_BESIDE = 1.2  # times the weights' own bytes; a file with more holds something else that counts


@dataclass
class Node:
    """A module, by the last part of its name: its own tensors, and the modules in it."""

    name: str
    tensors: dict[str, TensorRef] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    def all_tensors(self) -> Iterable[TensorRef]:
        yield from self.tensors.values()
        for child in self.children.values():
            yield from child.all_tensors()

    @property
    def parameters(self) -> int:
        return sum(tensor.numel for tensor in self.all_tensors())

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.all_tensors())

    @property
    def dtypes(self) -> str:
        return ", ".join(sorted({tensor.dtype_name for tensor in self.all_tensors()}))

    def form(self) -> tuple:
        """What two modules share that are the same but for their values."""
        own = tuple((name, tensor.shape, tensor.dtype_name) for name, tensor in self.tensors.items())
        return own, tuple((name, child.form()) for name, child in self.children.items())


@dataclass(frozen=True)
class Line:
    """A line of the tree: how deep, the name (`layers.{0..31}` for several alike), and what is in all of them."""

    depth: int
    name: str
    parameters: int
    nbytes: int
    dtypes: str


def tree_of(tensors: Mapping[str, TensorRef]) -> Node:
    """The modules that dotted names imply."""
    root = Node("")
    for name, tensor in tensors.items():
        *way, last = name.split(".", MAX_PARTS)
        node = root
        for part in way:
            node = node.children.setdefault(part, Node(part))
        node.tensors[last] = tensor
    return root


def lines(node: Node, deepest: int = 3, depth: int = 0, times: int = 1) -> list[Line]:
    """The tree from the top. Neighbours that are alike are one line (`layers.{0..31}`), and so is a module with nothing
    but one child, or one such run of children; numbers are those of all that a line stands for."""
    found: list[Line] = []
    for name, alike in _runs(list(node.children.values())):
        one, total = alike[0], times * len(alike)
        while not one.tensors and len(runs := _runs(list(one.children.values()))) == 1:
            name, total, one = f"{name}.{runs[0][0]}", total * len(runs[0][1]), runs[0][1][0]
        found.append(Line(depth, name, one.parameters * total, one.nbytes * total, one.dtypes))
        if depth + 1 < deepest:
            found += lines(one, deepest, depth + 1, total)
    return found


def shares(node: Node) -> list[tuple[str, int]]:
    """The bytes of each top module, largest first; below a single one, of those in it."""
    while not node.tensors and len(node.children) == 1:
        (node,) = node.children.values()
    found = [(name, child.nbytes) for name, child in node.children.items()]
    own = sum(tensor.nbytes for tensor in node.tensors.values())
    return sorted([*found, *([("(its own)", own)] if own else [])], key=lambda pair: -pair[1])


def oddities(
    weights: Candidate,
    file_bytes: int,
    others: Sequence[Candidate],
    track: Track = iter,
) -> list[str]:
    """What is unusual: values that are no numbers, layers of zeros, mixed dtypes, shared memory, more in the file than
    the weights. Reads each tensor's values, one tensor in memory at a time."""
    strange: dict[str, list[str]] = {"NaN": [], "infinite values": [], "only zeros": []}
    for name in track(list(weights.tensors)):
        tensor = weights.tensors[name]
        if tensor.layout != "strided" or not tensor.numel:
            continue
        for kind in _kinds(tensor):
            strange[kind].append(name)
    found = [f"{_listed(names)}: {kind}" for kind, names in strange.items() if names]
    floating = Counter(each.dtype_name for each in weights.tensors.values() if each.is_floating_point)
    if len(floating) > 1:
        found.append("mixed precision: " + ", ".join(f"{count} x {name}" for name, count in floating.most_common()))
    shared: dict[object, list[str]] = {}
    for name, tensor in weights.tensors.items():
        shared.setdefault(tensor.storage, []).append(name)
    tied = [names for names in shared.values() if len(names) > 1]
    if tied:
        found.append(f"{len(tied)} storages have several names (tied weights, or views): {' = '.join(tied[0][:4])} ...")
    if file_bytes > HEAVY_BESIDE * max(weights.nbytes, 1) and file_bytes - weights.nbytes > 100_000:
        beside = f", {len(others)} other mappings among it" if others else ""
        found.append(
            f"the file is {file_bytes / max(weights.nbytes, 1):.1f} x its weights: {size(file_bytes - weights.nbytes)} "
            f"of optimizer state and the like{beside}; score convert writes the weights alone"
        )
    return found


_IN_NUMPY = frozenset(("float64", "float32", "float16", "bfloat16"))


def _kinds(tensor: TensorRef) -> list[str]:
    """What is strange about a tensor's values; without torch, where they lie in the file as they are."""
    if not tensor.is_floating_point and not tensor.dtype_name.startswith("complex"):
        return []
    if tensor.content is None or tensor.dtype_name not in _IN_NUMPY:
        return _kinds_in_torch(tensor.load())
    if tensor.dtype_name == "bfloat16":  # the upper half of a float32
        values = (np.frombuffer(tensor.content(), np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(tensor.content(), tensor.dtype_name)
    found = []
    if not np.isfinite(values).all():
        found += ["NaN"] if np.isnan(values).any() else []
        found += ["infinite values"] if np.isinf(values).any() else []
    return [*found, "only zeros"] if len(tensor.shape) > 1 and not values.any() else found


def _kinds_in_torch(values: torch.Tensor) -> list[str]:
    found = []
    wide = values.float() if values.element_size() < 4 and not values.is_complex() else values
    if not torch.isfinite(wide).all():
        found += ["NaN"] if torch.isnan(wide).any() else []
        found += ["infinite values"] if torch.isinf(wide).any() else []
    if values.ndim > 1 and values.is_floating_point() and not wide.count_nonzero():
        found.append("only zeros")
    return found


def _runs(children: list[Node]) -> list[tuple[str, list[Node]]]:
    """Neighbours that are alike and numbered, together: `{0..11}`."""
    groups: list[list[Node]] = []
    for child in children:
        last = groups[-1][-1] if groups else None
        follows = last is not None and child.name.isdigit() and last.name.isdigit()
        if last is not None and follows and int(child.name) == int(last.name) + 1 and child.form() == last.form():
            groups[-1].append(child)
        else:
            groups.append([child])
    return [(f"{{{g[0].name}..{g[-1].name}}}" if len(g) > 1 else g[0].name, g) for g in groups]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SAMPLES]) + (f" and {len(names) - SAMPLES} more" if len(names) > SAMPLES else "")
