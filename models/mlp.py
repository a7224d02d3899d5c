"""A chain of linear layers, under whatever names it was written with."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from . import register
from ._functions import ACTIVATIONS, OUTPUTS, Activation, Output, at
from ._shapes import Shapes, layers, only


@register
class MLP(nn.Module):
    """Linear layers with one activation between them: [N, sizes[0]] to [N, sizes[-1]].

    `names` are the layers' dotted names, such as `fc1` or `net.0`; `sizes` has one number more. The activation between
    layers and what follows the last one leave no trace in a checkpoint, so they have to be said.
    """

    def __init__(
        self, names: Sequence[str], sizes: Sequence[int], activation: Activation, output: Output, bias: bool = True
    ):
        super().__init__()
        self.names, self.takes = list(names), f"float32[N, {sizes[0]}]"
        self.activation, self.output = ACTIVATIONS[activation], OUTPUTS[output]
        for name, (wide, high) in zip(names, itertools.pairwise(sizes), strict=True):
            at(self, name, nn.Linear(wide, high, bias=bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *hidden, last = (self.get_submodule(name) for name in self.names)
        for layer in hidden:
            x = self.activation(layer(x))
        return self.output(last(x))

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Where each layer takes what the one before gives, in the file's order."""
        names = layers(shapes, 2)
        if not names or not only(shapes, names):
            return None
        sizes = [shapes[f"{names[0]}.weight"][1], *(shapes[f"{name}.weight"][0] for name in names)]
        if any(shapes[f"{name}.weight"][1] != size for name, size in zip(names, sizes, strict=False)):
            return None
        found: dict[str, Any] = {"names": names, "sizes": sizes, "bias": f"{names[0]}.bias" in shapes}
        return found if len(names) > 1 else found | {"activation": "identity"}
