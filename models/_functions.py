"""What leaves no trace in a checkpoint, by the names it is given in SCORE_ARCHITECTURE_KWARGS."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional

Function = Callable[[torch.Tensor], torch.Tensor]
Activation = Literal["relu", "gelu", "tanh", "sigmoid", "elu", "silu", "leaky_relu", "identity"]
Output = Literal["identity", "sigmoid", "tanh", "softmax", "log_softmax"]

ACTIVATIONS: dict[str, Function] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
    "silu": functional.silu,
    "leaky_relu": functional.leaky_relu,
    "identity": lambda x: x,
}
OUTPUTS: dict[str, Function] = {
    "identity": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
}
assert tuple(ACTIVATIONS) == get_args(Activation)
assert tuple(OUTPUTS) == get_args(Output)


def at(module: nn.Module, name: str, child: nn.Module) -> None:
    """Put a module at a dotted name, with plain modules on the way."""
    *way, last = name.split(".")
    for part in way:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.add_module(last, child)
