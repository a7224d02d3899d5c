"""torchvision's Inception networks, GoogLeNet and Inception v3: what a pickled one of theirs computes.

Sources: Szegedy et al. 2014 and 2015; the names of parts are those in the files.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.torchvision_blocks import Network

# From pictures as most networks take them to those in -1 to 1: mean and deviation of each channel.
_MEANS, _DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Inception(Network):
    KEPT = NEEDS = words("transform_input")

    def taken(self, x: torch.Tensor) -> torch.Tensor:
        if not self.transform_input:
            return x
        channels = [
            x[:, at : at + 1] * (deviation / 0.5) + (mean - 0.5) / 0.5
            for at, (mean, deviation) in enumerate(zip(_MEANS, _DEVIATIONS, strict=True))
        ]
        return torch.cat(channels, 1)

    def classes(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.dropout(self.avgpool(x)), 1))


class GoogLeNet(_Inception):
    """`aux1` and `aux2` are for training."""

    _ORDER = (
        *("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3", "inception4a"),
        *("inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a", "inception5b"),
    )
    PARTS, MAY = frozenset((*_ORDER, "avgpool", "dropout", "fc")), words("aux1 aux2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.taken(x)
        for name in self._ORDER:
            x = self.get_submodule(name)(x)
        return self.classes(x)


class Inception3(_Inception):
    """`AuxLogits` is for training."""

    _ORDER = (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
    )
    PARTS, MAY = frozenset((*_ORDER, "avgpool", "dropout", "fc")), words("AuxLogits")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.taken(x)
        for name in self._ORDER:
            x = self.get_submodule(name)(x)
        return self.classes(x)


class BasicConv2d(Block):
    PARTS = words("conv bn")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class Inception(Block):
    """GoogLeNet's: four ways, side by side."""

    PARTS = words("branch1 branch2 branch3 branch4")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), 1)


class _Ways(Block):
    """Chains of parts, each from the block's input, side by side; a name that ends in a letter is one of two that take
    the same. `POOLED` is what comes from the pooled input."""

    WAYS: tuple[tuple[tuple[str, ...], ...], ...] = ()
    POOLED = "average"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = []
        for way in self.WAYS:
            y = x
            for names in way:
                made = [self.get_submodule(name)(y) for name in names]
                y = made[0] if len(made) == 1 else torch.cat(made, 1)
            found.append(y)
        if self.POOLED == "average":
            found.append(self.branch_pool(F.avg_pool2d(x, 3, 1, 1)))
        else:
            found.append(F.max_pool2d(x, 3, 2))
        return torch.cat(found, 1)


def _way(text: str) -> tuple[tuple[str, ...], ...]:
    """`a b c|d`: a, then b, then c and d side by side."""
    return tuple(tuple(each.split("|")) for each in text.split())


def _parts(ways: tuple[tuple[tuple[str, ...], ...], ...], *more: str) -> frozenset[str]:
    return frozenset((*more, *(name for way in ways for names in way for name in names)))


_DOUBLE = "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"


class InceptionA(_Ways):
    WAYS = (_way("branch1x1"), _way("branch5x5_1 branch5x5_2"), _way(_DOUBLE))
    PARTS = _parts(WAYS, "branch_pool")


class InceptionB(_Ways):
    WAYS = (_way("branch3x3"), _way(_DOUBLE))
    PARTS, POOLED = _parts(WAYS), "largest"


class InceptionC(_Ways):
    WAYS = (
        _way("branch1x1"),
        _way("branch7x7_1 branch7x7_2 branch7x7_3"),
        _way("branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5"),
    )
    PARTS = _parts(WAYS, "branch_pool")


class InceptionD(_Ways):
    WAYS = (_way("branch3x3_1 branch3x3_2"), _way("branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4"))
    PARTS, POOLED = _parts(WAYS), "largest"


class InceptionE(_Ways):
    WAYS = (
        _way("branch1x1"),
        _way("branch3x3_1 branch3x3_2a|branch3x3_2b"),
        _way("branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a|branch3x3dbl_3b"),
    )
    PARTS = _parts(WAYS, "branch_pool")


class InceptionAux(Block):
    """What only training asks."""

    ANY = True


_BLOCKS: Mapping[str, Mapping[str, type[nn.Module]]] = {
    "torchvision.models.googlenet": {
        "GoogLeNet": GoogLeNet, "Inception": Inception, "BasicConv2d": BasicConv2d, "InceptionAux": InceptionAux,
    },
    "torchvision.models.inception": {
        "Inception3": Inception3, "InceptionA": InceptionA, "InceptionB": InceptionB, "InceptionC": InceptionC,
        "InceptionD": InceptionD, "InceptionE": InceptionE, "BasicConv2d": BasicConv2d, "InceptionAux": InceptionAux,
    },
}  # fmt: skip


def block(path: str) -> type[nn.Module] | None:
    """What computes as a class of torchvision's Inception networks does; None for any other."""
    module, _, name = path.rpartition(".")
    return _BLOCKS.get(module, {}).get(name)
