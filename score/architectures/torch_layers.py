"""Rebuild a pickled module that is made of torch's own layers, or a known library's blocks, without trust.

A `torch.nn.Sequential` that was saved whole names nothing but classes of `torch.nn.modules`, and these are here: what
they run is torch's code, not the file's. The file gives only their attributes, and those have to be plain values. A
hook, a function of the project, a class from elsewhere: anything else, and the module is not rebuilt.
"""

import sys
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from score.architectures import (
    fastai_blocks,
    fx_modules,
    inception_blocks,
    torch_ao_layers,
    torchvision_blocks,
)
from score.architectures.block import Block
from score.architectures.detection_blocks import known as detection_blocks
from score.architectures.detectron2_blocks import known as detectron2_blocks
from score.architectures.openmmlab_blocks import known as openmmlab_blocks
from score.architectures.segmentation_blocks import known as segmentation_blocks
from score.architectures.timm_blocks import known as timm_blocks
from score.architectures.yolo import network
from score.formats._pickle import torch_ao
from score.formats._pickle.inert import settled
from score.formats.base import GlobalName, OpaqueObject, TensorRef

PACKAGE = "torch.nn.modules."
MAX_DEPTH = 100
MAX_VALUES = 1_000_000  # the same list may be met many times over
_COUNTS, MAX_COUNT = ("num_layers",), 10_000  # what a layer makes as many of as it says
_COMPUTES = frozenset(("forward", "_forward", "_forward_impl", "_call_impl", "__call__"))  # set on an instance
_FUNCTIONS = frozenset(
    {"relu", "gelu", "tanh", "sigmoid", "silu", "mish", "elu", "selu", "leaky_relu", "softplus", "hardswish"}
    | {"scaled_dot_product_attention"}
)


class NotPlain(Exception):
    """The module holds something that is neither a plain value nor one of torch's layers."""


def rebuild(module: OpaqueObject) -> nn.Module:
    """The module, with its tensors as they lie in the file. Raises `NotPlain`, saying what stands in the way."""
    try:
        return _Rebuilding().module(module, MAX_DEPTH)
    except torch_ao_layers.Unusable as error:
        raise NotPlain(str(error)) from None


class _Rebuilding:
    """One rebuilding; tensors and modules that occur twice are made once, so that what was tied stays tied."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.seen = 0

    def module(self, opaque: OpaqueObject, depth: int) -> nn.Module:
        if id(opaque) in self.made:
            return self.made[id(opaque)]  # type: ignore[no-any-return]
        if depth == 0:
            raise NotPlain("modules nested too deep")
        cls = _layer(opaque.path)
        if (said := torch_ao.convolution(opaque)) is not None:
            return self.kept(opaque, torch_ao_layers.convolution(cls, said, self.packed))
        kept = _kept(cls, opaque)
        state: dict[str, Any] = {}
        for name, value in opaque.attributes().items():
            if name in _COMPUTES:
                raise NotPlain(f"a {opaque.path} with a {name} of its own")
            if name in torch_ao_layers.LEFT_OUT or (kept is not None and name not in kept):
                continue
            if name == "_backend" and isinstance(value, OpaqueObject) and value.path.startswith("torch.nn.backends."):
                continue  # torch before 0.4 kept the table of its own functions
            state[str(name)] = self.attribute(str(name), value, depth)
        made = cls.__new__(cls)
        made.__setstate__(state)  # torch's own, which also brings the attributes of older versions up to date
        if isinstance(made, Block) and (odd := _odd(made)):
            raise NotPlain(f"a {opaque.path} of another kind than the one that is known: {odd}")
        return self.kept(opaque, torch_ao_layers.checked(made))

    def kept(self, opaque: OpaqueObject, made: nn.Module) -> nn.Module:
        self.made[id(opaque)] = made
        return made

    def attribute(self, name: str, value: Any, depth: int) -> Any:
        held = value.mapping if isinstance(value, OpaqueObject) else value
        if name == "_modules":
            return {key: None if child is None else self.child(child, depth) for key, child in _dict(held).items()}
        if name in ("_parameters", "_buffers"):
            wrap = name == "_parameters"
            return {key: None if item is None else self.tensor(item, wrap) for key, item in _dict(held).items()}
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) or "_hooks_" in name:
            if held and "state_dict" not in name:  # those are for writing and reading a state
                raise NotPlain(f"a hook in {name}")
            return OrderedDict()
        return self.plain(name, value, depth)

    def child(self, value: Any, depth: int) -> nn.Module:
        if not isinstance(value, OpaqueObject):
            raise NotPlain("a submodule that is none")
        return self.module(value, depth - 1)

    def tensor(self, value: Any, wrap: bool) -> torch.Tensor:
        ref = settled(value)
        if not isinstance(ref, TensorRef):
            raise NotPlain("a parameter that is no tensor")
        if id(ref) not in self.made:
            loaded = ref.load()
            self.made[id(ref)] = nn.Parameter(loaded, requires_grad=False) if wrap else loaded
        return self.made[id(ref)]  # type: ignore[no-any-return]

    def packed(self, value: Any) -> torch.Tensor:
        return self.tensor(value, wrap=False)

    def plain(self, name: str, value: Any, depth: int) -> Any:
        value = settled(value)
        self.seen += 1
        if self.seen > MAX_VALUES or (name in _COUNTS and isinstance(value, int) and value > MAX_COUNT):
            raise NotPlain(f"{name}, which would make more than a module has")
        if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
            return value
        if isinstance(value, (list, tuple, set)) and depth:
            return type(value)(self.plain(name, item, depth - 1) for item in value)
        if isinstance(value, dict) and depth:
            return {str(key): self.plain(name, item, depth - 1) for key, item in value.items()}
        if isinstance(value, TensorRef):
            return self.tensor(value, wrap=False)
        if isinstance(value, OpaqueObject) and value.path == torch_ao.OBJECT:
            return torch_ao_layers.unpacked(value, self.packed)
        if isinstance(value, OpaqueObject) and depth and value.path in openmmlab_blocks.DICTS:
            held = value.args[0] if value.args else value.mapping
            return self.plain(name, held if isinstance(held, dict) else {}, depth - 1)
        if isinstance(value, OpaqueObject) and depth and (kind := _VALUES.get(value.path)):
            held = value.attributes()
            fields = {name: held[name] for name in kind.__dataclass_fields__ if name in held}
            return kind(**{each: self.plain(each, item, depth - 1) for each, item in fields.items()})
        if isinstance(value, GlobalName) and value.path.rpartition(".")[2] in _FUNCTIONS:
            module, _, function = value.path.rpartition(".")
            if module in ("torch.nn.functional", "torch._C._nn", "torch"):
                return getattr(nn.functional, function)
        raise NotPlain(f"{getattr(value, 'path', type(value).__name__)} in {name}")


# What any module has, and what a layer of a graph says of its place.
_OF_MODULES = frozenset(vars(nn.Identity())) | {"training", "i", "f"}


def _kept(cls: type[nn.Module], opaque: OpaqueObject) -> frozenset[str] | None:
    """Which attributes a block of a known library's is rebuilt with, all its parts being known; None for torch's own
    layers, which keep all. Raises `NotPlain` for one with other parts."""
    if not issubclass(cls, Block):
        return None
    held = opaque.attribute("_modules")
    held = held.mapping if isinstance(held, OpaqueObject) else held
    parts = {str(name) for name, part in _dict(held).items() if part is not None}
    if lacking := sorted(name for name in cls.NEEDS if name not in opaque.attributes()):
        raise NotPlain(f"a {opaque.path} without {', '.join(lacking)}")
    if not cls.ANY and not cls.PARTS <= parts <= cls.PARTS | cls.MAY:
        odd = sorted(parts ^ cls.PARTS)
        raise NotPlain(f"a {opaque.path} of another kind than the one that is known: {', '.join(odd)}")
    return _OF_MODULES | cls.KEPT


def _odd(block: Block) -> str:
    """What of a block is not known, or is not of the kind that it says."""
    try:
        return block.unknown()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return str(error)


# Values that attributes hold, each with the fields that it is made of.
_VALUES = {**detection_blocks.VALUES, **detectron2_blocks.VALUES, **openmmlab_blocks.VALUES}
# What says which of our classes computes as a library's, by its path.
_LIBRARIES = (
    *(network.block, torchvision_blocks.block, inception_blocks.block, fastai_blocks.block, timm_blocks.block),
    segmentation_blocks.block,
    detection_blocks.block,
    detectron2_blocks.block,
    openmmlab_blocks.block,
    fx_modules.block,
    torch_ao_layers.layer,
)


def is_of_a_library(path: str) -> bool:
    """Whether a class is one of a library's that is known here."""
    return any(each(path) is not None for each in _LIBRARIES)


def _layer(path: str) -> type[nn.Module]:
    """A class of `torch.nn.modules`, or what computes as a known library's, by its path. Nothing is imported: torch
    has done so itself."""
    if (known := next((found for each in _LIBRARIES if (found := each(path)) is not None), None)) is not None:
        return known
    module, _, name = path.rpartition(".")
    cls = vars(sys.modules[module]).get(name) if path.startswith(PACKAGE) and module in sys.modules else None
    if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module:
        return cls
    raise NotPlain(f"a module of class {path}")


def _dict(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    raise NotPlain("a module without its parts")
