"""Layers of torch.ao.quantization in a pickled module: where the tensors are that they keep packed.

A convolution pickles what it is as one tuple; a linear layer, an embedding and a recurrent network keep an object of
torch's C++ side, which pickles the tensors it was packed from and its type. Source: `__getstate__` in
torch/ao/nn/quantized/modules/conv.py, aten/src/ATen/native/quantized/cpu/fbgemm_utils.cpp and RNN.cpp.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from score.formats.base import OpaqueObject, TensorRef

OBJECT = "torch.ScriptObject"
_TYPE = "__torch__.torch.classes."
LINEAR, EMBEDDING, CELL = (
    f"{_TYPE}{name}"
    for name in ("quantized.LinearPackedParamsBase", "quantized.EmbeddingPackedParamsBase", "rnn.CellParamsBase")
)
# Where torch had them before 1.13, when torch.ao came.
_FORMERLY = re.compile(r"torch\.(nn\.quantized|nn\.intrinsic|nn\.quantizable|quantization\.stubs)\.")
_OURS = re.compile(r"torch\.ao\.(nn\.(quantized|intrinsic|quantizable)|quantization\.stubs)\.")
_CONVOLUTION = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed"),
    *("output_padding", "groups", "padding_mode", "weight", "bias", "scale", "zero_point", "training"),
)
_RECURRENT = "torch.ao.nn.quantized.dynamic.modules.rnn."


class Packed(NamedTuple):
    """An object of torch's C++ side: its type, and what it was packed from."""

    kind: str
    held: tuple[Any, ...]


def path_of(path: str) -> str:
    """A class's path as torch has it now; empty for one that is not of torch.ao."""
    path = path.replace("torch.", "torch.ao.", 1) if _FORMERLY.match(path) else path
    return path if _OURS.match(path) else ""


def packed(value: Any) -> Packed | None:
    """What an object of torch's C++ side holds; None for anything else."""
    state = value.state if isinstance(value, OpaqueObject) and value.path == OBJECT else None
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], tuple) and isinstance(state[1], str):
        return Packed(state[1], state[0])
    return None


def convolution(module: OpaqueObject) -> dict[str, Any] | None:
    """What a pickled convolution is, by name; None for any other layer."""
    if not path_of(module.path) or not isinstance(module.state, tuple) or len(module.state) != len(_CONVOLUTION):
        return None
    return dict(zip(_CONVOLUTION, module.state, strict=True))


def tensors(module: OpaqueObject) -> Iterator[tuple[str, TensorRef]]:
    """The tensors that a layer keeps packed, by the names that the layer which was quantised has for them."""
    path = path_of(module.path)
    if not path:
        return
    if (said := convolution(module)) is not None:
        yield from _named(said["weight"], said["bias"])
    elif path.startswith(_RECURRENT):
        yield from _recurrent(module)
    else:
        inner = _part(module, "_packed_params")
        for name in ("_packed_params", "_packed_weight"):
            found = packed(inner.attribute(name)) if inner is not None else None
            if found is not None and found.kind == LINEAR and len(found.held) == 2:
                yield from _named(*found.held)
            elif found is not None and found.kind == EMBEDDING and len(found.held) == 4:
                yield from _named(next(iter(_items(found.held[1])), None), None)


def _recurrent(module: OpaqueObject) -> Iterator[tuple[str, TensorRef]]:
    for name, suffix in (("_packed_weight_ih", "_ih"), ("_packed_weight_hh", "_hh")):
        yield from _linear(module.attribute(name), suffix)  # of one cell
    layers = _part(module, "_all_weight_values")
    directions = 2 if module.attribute("bidirectional") is True else 1
    for index, parameter in enumerate(_parts(layers).values() if layers is not None else ()):
        found = packed(parameter.attribute("param")) if isinstance(parameter, OpaqueObject) else None
        if found is None or found.kind != CELL or len(found.held) != 5:
            continue
        suffix = f"_l{index // directions}{'_reverse' if index % directions else ''}"
        for which, linear in zip(("_ih", "_hh"), _items(found.held[4]), strict=False):
            yield from _linear(linear, which + suffix)


def _linear(value: Any, suffix: str) -> Iterator[tuple[str, TensorRef]]:
    found = packed(value)
    if found is not None and found.kind == LINEAR and len(found.held) == 2:
        yield from _named(*found.held, suffix=suffix)


def _named(weight: Any, bias: Any, suffix: str = "") -> Iterator[tuple[str, TensorRef]]:
    if isinstance(weight, TensorRef):
        yield f"weight{suffix}", weight
    if isinstance(bias, TensorRef):
        yield f"bias{suffix}", bias


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _parts(module: OpaqueObject) -> dict[Any, Any]:
    held = module.attribute("_modules")
    held = held.mapping if isinstance(held, OpaqueObject) else held
    return held if isinstance(held, dict) else {}


def _part(module: OpaqueObject, name: str) -> OpaqueObject | None:
    found = _parts(module).get(name)
    return found if isinstance(found, OpaqueObject) else None
