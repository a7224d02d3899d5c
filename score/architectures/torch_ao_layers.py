"""torch.ao's quantised layers, made again from a pickled module: torch's own classes, on torch's own packed weights.

They compute with integers, as the module did that was saved. torch runs them on CPUs only. Sizes and dtypes come from
the file and are checked before torch packs or computes with them.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from score.formats._pickle import torch_ao
from score.formats.base import OpaqueObject

Tensor = Callable[[Any], torch.Tensor]

_NN = "torch.ao.nn."
_LAYERS: dict[str, str] = {
    f"{_NN}quantized.modules": "Quantize DeQuantize",
    f"{_NN}quantized.modules.linear": "Linear LinearPackedParams",
    f"{_NN}quantized.modules.conv": "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d",
    f"{_NN}quantized.modules.batchnorm": "BatchNorm2d BatchNorm3d",
    f"{_NN}quantized.modules.activation": "ReLU6 Hardswish ELU LeakyReLU Sigmoid Softmax PReLU",
    f"{_NN}quantized.modules.dropout": "Dropout",
    f"{_NN}quantized.modules.embedding_ops": "Embedding EmbeddingBag EmbeddingPackedParams",
    f"{_NN}quantized.modules.functional_modules": "FloatFunctional FXFloatFunctional QFunctional",
    f"{_NN}quantized.modules.normalization": "LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    f"{_NN}quantized.modules.rnn": "LSTM",
    f"{_NN}quantizable.modules.rnn": "LSTMCell _LSTMSingleLayer _LSTMLayer",
    f"{_NN}quantized.dynamic.modules.linear": "Linear",
    f"{_NN}quantized.dynamic.modules.conv": ("Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d"),
    f"{_NN}quantized.dynamic.modules.rnn": "LSTM GRU RNNCell LSTMCell GRUCell PackedParameter",
    f"{_NN}intrinsic.quantized.modules.linear_relu": "LinearReLU LinearLeakyReLU LinearTanh",
    f"{_NN}intrinsic.quantized.modules.conv_relu": "ConvReLU1d ConvReLU2d ConvReLU3d",
    f"{_NN}intrinsic.quantized.modules.conv_add": "ConvAdd2d ConvAddReLU2d",
    f"{_NN}intrinsic.quantized.modules.bn_relu": "BNReLU2d BNReLU3d",
    f"{_NN}intrinsic.quantized.dynamic.modules.linear_relu": "LinearReLU",
    f"{_NN}intrinsic.modules.fused": (
        "ConvReLU1d ConvReLU2d ConvReLU3d LinearReLU ConvBn1d ConvBn2d ConvBn3d ConvBnReLU1d ConvBnReLU2d ConvBnReLU3d "
        "BNReLU2d BNReLU3d LinearBn1d LinearLeakyReLU LinearTanh"
    ),
    "torch.ao.quantization.stubs": "QuantStub DeQuantStub QuantWrapper",
}
# How a class may be observed and quantised; no part of what it computes.
LEFT_OUT = frozenset(("qconfig",))
_MOST = 1 << 20  # a size of a convolution's window, of a step, of channels
_GATES = {"LSTM": 4, "GRU": 3}


class Unusable(Exception):
    """Packed weights that are not of the layer they are in."""


def layer(path: str) -> type[nn.Module] | None:
    """torch's class by its path, as it is or was called; None for one that is not known here."""
    module, _, name = torch_ao.path_of(path).rpartition(".")
    if name not in _LAYERS.get(module, "").split():
        return None
    found: type[nn.Module] = getattr(importlib.import_module(module), name)
    return found


def is_quantised(module: nn.Module) -> bool:
    """Whether a module has a layer that torch runs on CPUs only."""
    return any(_is_of(part, f"{_NN}quantized.", f"{_NN}intrinsic.quantized.") for part in module.modules())


def is_dynamic(module: nn.Module) -> bool:
    """Whether a layer quantises its inputs by the range of all rows that come together: what one row is answered then
    depends on the others. Layers of float16 quantise none."""
    dynamic = (f"{_NN}quantized.dynamic.", f"{_NN}intrinsic.quantized.dynamic.")
    return any(_is_of(part, *dynamic) and _integers(part) for part in module.modules())


def _is_of(part: nn.Module, *packages: str) -> bool:
    return type(part).__module__.startswith(packages)


def _integers(part: nn.Module) -> bool:
    if type(part).__name__ == "PackedParameter":
        return False
    packed = getattr(part, "_packed_params", None)
    said = (getattr(held, name, None) for held in (part, packed) for name in ("dtype", "weight_dtype"))
    return next((each for each in said if each is not None), torch.qint8) == torch.qint8


def unpacked(value: OpaqueObject, tensor: Tensor) -> Any:
    """An object of torch's C++ side, packed again from what the file has of it. Raises `Unusable`."""
    found = torch_ao.packed(value)
    pack = _PACKS.get(found.kind) if found is not None else None
    if found is None or pack is None:
        raise Unusable(f"packed weights of {found.kind if found is not None else 'no kind'}")
    return _torch(lambda: pack(found.held, tensor))


def convolution(cls: type[nn.Module], said: Mapping[str, Any], tensor: Tensor) -> nn.Module:
    """A convolution from what it pickled: torch's own `__setstate__` packs the weights. Raises `Unusable`."""
    weight = _quantised(said["weight"], tensor, (3, 4, 5))
    bias = _bias(said["bias"], tensor)
    spatial = weight.dim() - 2
    windows = ("kernel_size", "stride", "padding", "dilation", "output_padding")
    sizes = {name: _sizes(name, said[name], spatial) for name in windows}
    numbers = {name: _size(name, said[name]) for name in ("in_channels", "out_channels", "groups")}
    channels = (numbers["in_channels"], numbers["out_channels"])
    first, second = channels if said["transposed"] is True else channels[::-1]
    groups = max(numbers["groups"], 1)
    expected = (first, second // groups, *sizes["kernel_size"])
    if tuple(weight.shape) != expected or min(*channels, *sizes["stride"], *sizes["dilation"], numbers["groups"]) < 1:
        raise Unusable(f"a convolution's weights of {list(weight.shape)} where {list(expected)} belong")
    if channels[0] % groups or channels[1] % groups or (bias is not None and tuple(bias.shape) != channels[1:]):
        raise Unusable("a convolution whose bias or groups do not fit its channels")
    if said["padding_mode"] not in ("zeros", "reflect"):
        raise Unusable(f"a convolution that is padded with {said['padding_mode']}")
    made = cls.__new__(cls)
    nn.Module.__init__(made)  # which torch leaves out: what it unpickles has no submodules, and can't be moved
    scale, zero_point = _affine(said)
    given = {**said, **numbers, **sizes, "weight": weight, "bias": bias, "scale": scale, "zero_point": zero_point}
    _torch(lambda: made.__setstate__(tuple(given.values())))
    return made


def checked(module: Any) -> Any:
    """A recurrent layer whose packed weights are of its sizes: its kernels take them unseen. Raises `Unusable`."""
    kind = type(module).__name__
    if type(module).__module__ != f"{_NN}quantized.dynamic.modules.rnn" or kind == "PackedParameter":
        return module
    hidden, inputs = _size("hidden_size", module.hidden_size), _size("input_size", module.input_size)
    if kind not in _GATES:
        gates = {"LSTMCell": 4, "GRUCell": 3, "RNNCell": 1}[kind]
        _of_sizes((module._packed_weight_ih, module._packed_weight_hh), gates * hidden, (inputs, hidden))
        return module
    directions, layers = 2 if module.bidirectional is True else 1, _size("num_layers", module.num_layers)
    values = list(module._all_weight_values)
    if len(values) != directions * layers:
        raise Unusable(f"a {kind} of {layers} layers with packed weights of {len(values)}")
    for index, parameter in enumerate(values):
        wide = inputs if index < directions else directions * hidden
        _of_sizes(parameter.param.__getstate__()[0][4], _GATES[kind] * hidden, (wide, hidden))
    return module


def _of_sizes(packed: Any, out: int, wide: tuple[int, int]) -> None:
    shapes = [tuple(linear.__getstate__()[0][0].shape) for linear in packed]
    if shapes != [(out, each) for each in wide]:
        raise Unusable(f"a recurrent layer with packed weights of {shapes}")


def _linear(held: tuple[Any, ...], tensor: Tensor) -> Any:
    weight, bias = tensor(held[0]), _bias(held[1], tensor) if len(held) == 2 else None
    if len(held) != 2 or weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise Unusable("a linear layer whose packed weights are none")
    if weight.dtype == torch.qint8:
        return torch.ops.quantized.linear_prepack(weight, bias)
    if weight.dtype == torch.float32:
        return torch.ops.quantized.linear_prepack_fp16(weight, bias)
    raise Unusable(f"a linear layer of {weight.dtype}")


def _embedding(held: tuple[Any, ...], tensor: Tensor) -> Any:
    tensors = held[1] if len(held) == 4 and isinstance(held[1], list) else []
    weight = tensor(tensors[0]) if len(tensors) == 1 else torch.empty(0)
    if weight.dim() != 2 or weight.dtype not in (torch.quint8, torch.quint4x2):
        raise Unusable("an embedding whose packed weights are none")
    return torch.ops.quantized.embedding_bag_prepack(weight)


def _cell(held: tuple[Any, ...], tensor: Tensor) -> Any:
    kind, biases, _, integers, linears = held if len(held) == 5 else ("", [], [], [], [])
    if not isinstance(linears, list) or len(linears) != 2:
        raise Unusable("a recurrent layer whose packed weights are none")
    ih, hh = (unpacked(each, tensor) for each in linears)
    if kind == "quantized_fp16":
        return torch.ops.quantized.make_quantized_cell_params_fp16(ih, hh)
    if kind == "quantized_dynamic" and isinstance(biases, list) and len(biases) == 2 and isinstance(integers, list):
        reduced = bool(integers and integers[0])
        return torch.ops.quantized.make_quantized_cell_params_dynamic(ih, hh, *map(tensor, biases), reduced)
    raise Unusable(f"a recurrent layer's packed weights of {kind}")


_PACKS: dict[str, Callable[[tuple[Any, ...], Tensor], Any]] = {
    torch_ao.LINEAR: _linear,
    torch_ao.EMBEDDING: _embedding,
    torch_ao.CELL: _cell,
}


def _quantised(value: Any, tensor: Tensor, dimensions: tuple[int, ...]) -> torch.Tensor:
    found = tensor(value)
    if found.dtype != torch.qint8 or found.dim() not in dimensions:
        raise Unusable(f"a layer's weights of {found.dtype} in {found.dim()} dimensions")
    return found


def _bias(value: Any, tensor: Tensor) -> torch.Tensor | None:
    found = None if value is None else tensor(value)
    if found is not None and (found.dtype != torch.float32 or found.dim() != 1):
        raise Unusable(f"a bias of {found.dtype} in {found.dim()} dimensions")
    return found


def _size(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    raise Unusable(f"a layer whose {name} is {value!r}")


def _sizes(name: str, value: Any, count: int) -> tuple[int, ...]:
    if isinstance(value, (tuple, list)) and len(value) == count:
        return tuple(_size(name, each) for each in value)
    raise Unusable(f"a layer whose {name} is {value!r}")


def _affine(said: Mapping[str, Any]) -> tuple[float, int]:
    scale, zero_point = said["scale"], said["zero_point"]
    if isinstance(scale, (int, float)) and isinstance(zero_point, int) and scale > 0:
        return float(scale), int(zero_point)
    raise Unusable(f"a layer of the scale {scale!r} and the zero point {zero_point!r}")


def _torch(make: Callable[[], Any]) -> Any:
    """What torch packs; where it refuses to, its first line."""
    try:
        return make()
    except (RuntimeError, ValueError, IndexError) as error:
        raise Unusable(str(error).splitlines()[0]) from None
