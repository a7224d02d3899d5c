"""Convolutions, then linear layers: the network of every first tutorial, under whatever names it was written with."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from . import register
from ._functions import ACTIVATIONS, OUTPUTS, Activation, Output, at
from ._shapes import Shapes, layers, only


@register
class CNN(nn.Module):
    """[N, channels[0], side, side] to [N, sizes[-1]]: after each convolution the activation and a max pool, then linear
    layers with the activation between them.

    `pool` is the pool's size after each convolution, 1 for none; one number stands for all. Kernel sizes, channels and
    sizes are in the shapes; the activation, the pools, the padding and what follows the last layer are not.
    """

    def __init__(
        self,
        convolutions: Sequence[str],
        channels: Sequence[int],
        kernels: Sequence[int],
        linear: Sequence[str],
        sizes: Sequence[int],
        activation: Activation,
        pool: int | Sequence[int],
        padding: int | Sequence[int],
        output: Output,
    ):
        super().__init__()
        self.convolutions, self.linear = list(convolutions), list(linear)
        self.activation, self.output = ACTIVATIONS[activation], OUTPUTS[output]
        self.pools, paddings = (_each(value, len(convolutions)) for value in (pool, padding))
        for name, (low, high), kernel, pad in zip(
            convolutions, itertools.pairwise(channels), kernels, paddings, strict=True
        ):
            at(self, name, nn.Conv2d(low, high, kernel, padding=pad))
        for name, (wide, high) in zip(linear, itertools.pairwise(sizes), strict=True):
            at(self, name, nn.Linear(wide, high))
        self.takes = f"float32[N, {channels[0]}, {{0}}, {{0}}]".format(
            self._side(sizes[0], channels, kernels, paddings)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, pool in zip(self.convolutions, self.pools, strict=True):
            x = self.activation(self.get_submodule(name)(x))
            x = functional.max_pool2d(x, pool) if pool > 1 else x
        x = x.flatten(1)
        for name in self.linear[:-1]:
            x = self.activation(self.get_submodule(name)(x))
        return self.output(self.get_submodule(self.linear[-1])(x))

    def _side(self, features: int, channels: Sequence[int], kernels: Sequence[int], paddings: Sequence[int]) -> int:
        """The side of the images that come out as `features` numbers. Raises `ValueError` where none does."""
        for side in range(1, 1025):
            left = side
            for kernel, pad, pool in zip(kernels, paddings, self.pools, strict=True):
                left = (left + 2 * pad - kernel + 1) // pool
            if left > 0 and left * left * channels[-1] == features:
                return side
        raise ValueError(
            f"no square image comes out as {features} numbers with pool={self.pools} and padding={list(paddings)}; "
            f"what is left after the last pool has to be {math.isqrt(features // channels[-1])} on each side"
        )

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> dict[str, Any] | None:
        convolutions, linear = layers(shapes, 4), layers(shapes, 2)
        if not convolutions or not linear or not only(shapes, [*convolutions, *linear]):
            return None
        weights = [shapes[f"{name}.weight"] for name in convolutions]
        channels = [weights[0][1], *(shape[0] for shape in weights)]
        sizes = [shapes[f"{linear[0]}.weight"][1], *(shapes[f"{name}.weight"][0] for name in linear)]
        chained = all(shape[1] == low and shape[2] == shape[3] for shape, low in zip(weights, channels, strict=False))
        chained &= all(shapes[f"{name}.weight"][1] == size for name, size in zip(linear, sizes, strict=False))
        biased = all(f"{name}.bias" in shapes for name in [*convolutions, *linear])
        if not chained or not biased or sizes[0] % channels[-1]:
            return None
        return {
            "convolutions": convolutions,
            "channels": channels,
            "kernels": [shape[2] for shape in weights],
            "linear": linear,
            "sizes": sizes,
        }


def _each(value: int | Sequence[int], number: int) -> list[int]:
    return [value] * number if isinstance(value, int) else list(value)
