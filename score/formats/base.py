"""What opening a file gives: plain values, inert stand-ins, and tensors that are not in memory yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from score.formats import dtypes

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""The shapes of a state's tensors, by name, in the order of `state_dict()`."""


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor in a file: its description, and how to bring it in.

    `dtype_name` is torch's (`float32`), `nbytes` what its elements take; `storage` identifies the bytes it views (equal
    for tensors that share memory), and `load` maps or reads them. `content` gives its elements as they lie in the file,
    row by row, without torch; None where they do not.
    """

    dtype_name: str
    shape: tuple[int, ...]
    nbytes: int
    storage: object
    load: Callable[[], torch.Tensor] = field(repr=False)
    layout: str = "strided"
    content: Callable[[], memoryview] | None = field(default=None, repr=False)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return dtypes.of(self.dtype_name)

    @property
    def is_floating_point(self) -> bool:
        return dtypes.is_floating_point(self.dtype_name)


def computed(dtype_name: str, shape: tuple[int, ...], load: Callable[[], torch.Tensor]) -> TensorRef:
    """A tensor that lies nowhere as it is: `load` makes it of others."""
    return TensorRef(dtype_name, shape, math.prod(shape) * dtypes.ITEMSIZE[dtype_name], object(), load)


@dataclass(eq=False)
class OpaqueObject:
    """An object of a class that is not ours to import: its class path, and whatever the file says it holds.

    `args` are those it was made with, `state` what BUILD set, `items` what was appended, `mapping` what was set by key.
    """

    path: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None
    items: list[Any] = field(default_factory=list)
    mapping: dict[Any, Any] = field(default_factory=dict)

    def states(self) -> list[dict[Any, Any]]:
        """The mappings that hold the instance's attributes: a `__dict__`, or those of a `(dict, slots)` state."""
        parts = self.state[:2] if isinstance(self.state, tuple) else (self.state,)
        return [part for part in parts if isinstance(part, dict)]

    def attribute(self, name: str) -> Any:
        """One attribute; None where it has none of that name."""
        return next((part[name] for part in reversed(self.states()) if name in part), None)

    def attributes(self) -> dict[Any, Any]:
        """All attributes, in a mapping of their own."""
        return {key: value for part in self.states() for key, value in part.items()}

    def containers(self) -> list[Any]:
        """What holds its values: attributes, keys, items and arguments, each as the file has it, and so perhaps shared
        with other objects."""
        return [*self.states(), self.mapping, self.items, self.args]


@dataclass(frozen=True, eq=False)
class GlobalName:
    """A class or function that a file mentions and that was not imported."""

    path: str


@dataclass(frozen=True, eq=False)
class ModelFactory:
    """A class that the file names for its weights. `build()` makes it without values; `code` says what building it
    would run that the file brought along."""

    name: str
    build: Callable[[], torch.nn.Module]
    code: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class HfConfig:
    """The `config.json` beside a folder's weights, which names their class. An adapter may mean another: that of its
    `task`, or one `named`, with some `overrides` of what the configuration says."""

    folder: Path
    values: Mapping[str, Any]
    task: str = ""
    named: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Adapter:
    """What adapts a model's weights: its name, its `adapter_config.json`, and its tensors."""

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorRef]


@dataclass(frozen=True)
class Beside:
    """What belongs to a model and does not lie in its own folder: where its tokenizer and processor are, the task that
    is said to be its, what it is said to take (as SCORE_INPUTS has it), the body of a request that was recorded, and
    the names of a table's columns, in order."""

    tokenizer: Path | None = None
    processor: Path | None = None
    task: str = ""
    takes: str | dict[str, str] | None = None
    example: dict[str, Any] | None = None
    columns: tuple[str, ...] = ()


NOTHING_BESIDE = Beside()


@dataclass(frozen=True)
class Packed:
    """The archive that a checkpoint lies in, the folder that the archive is as, and the checkpoint's name in it: empty
    where it is all of it."""

    path: Path
    root: Path
    member: str


@dataclass(frozen=True, eq=False)
class _Opened:
    """What every opened checkpoint has.

    `tree` is what the file holds: dicts, lists, scalars, `TensorRef`s, `OpaqueObject`s. `unsafe_globals` names what the
    file mentions and was not imported.
    """

    format: str
    path: Path
    tree: Any
    unsafe_globals: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    beside: Beside = NOTHING_BESIDE
    held: object = None  # what has to live as long as the tensors, such as an unpacked file in memory
    packed: Packed | None = None
    adapters: tuple[Adapter, ...] = ()

    @property
    def origin(self) -> Path:
        """The file or folder that is in the model folder: an archive, or what was opened."""
        return self.packed.path if self.packed else self.path

    @property
    def shown(self) -> Path:
        """Its path for people."""
        return self.packed.path / self.packed.member if self.packed else self.path

    @property
    def neighbours(self) -> Path:
        """The path beside which its labels and its Python files are: an archive's that holds nothing else, or its
        own."""
        alone = self.packed is not None and list(self.packed.root.iterdir()) == [self.path]
        return self.origin if alone else self.path


@dataclass(frozen=True, eq=False)
class StateDict(_Opened):
    """Tensors by name, and nothing that says what class they are of: safetensors, npz, distcp, shards."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PickledObjects(_Opened):
    """What torch.save wrote: a state_dict, a training checkpoint, or a whole module.

    `load_trusted` reads the file again with its own classes imported and called; only the policy in
    `score.weights.trust` may decide to.
    """

    load_trusted: Callable[[], Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class DescribedWeights(_Opened):
    """Tensors by name, with what names their class: a class that is in the file, or a configuration."""

    model: ModelFactory | HfConfig


@dataclass(frozen=True, eq=False, kw_only=True)
class Program(_Opened):
    """A model that carries its own computation; its `tree` is its tensors by name.

    `build(device)` gives a module that is ready to be called, in evaluation mode. `code` says what building it would
    run that the file brought along; a program without is safe to build as it is.
    """

    build: Callable[[torch.device], torch.nn.Module]
    class_path: str
    code: tuple[str, ...] = ()


Checkpoint = StateDict | PickledObjects | DescribedWeights | Program
"""An opened checkpoint: which of these it is says how its module is found (`score.architectures.resolve`)."""
