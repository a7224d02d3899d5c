"""mmpretrain's classifiers: a backbone, a neck and a head, from pictures that are normalised already to scores."""

import torch
from torch import nn

from score.architectures.block import Block, channels_of, words
from score.architectures.openmmlab_blocks.convolutions import Features


class Normalisation(Block):
    """What pictures go through before the network, which its own `forward` leaves out."""

    ANY = True


def labels_of(network: nn.Module) -> tuple[str, ...] | None:
    """The names of classes, where whoever saved the network had put them beside it."""
    meta = network.__dict__.get("dataset_meta")
    names = meta.get("classes", meta.get("CLASSES")) if isinstance(meta, dict) else network.__dict__.get("CLASSES")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) or None


class Network(Block):
    """Of pictures [N, C, H, W] that are normalised already."""

    KEPT = words("dataset_meta CLASSES")

    @property
    def labels(self) -> tuple[str, ...] | None:
        return labels_of(self)

    @property
    def takes(self) -> str:
        return f"float32[N, {channels_of(self.backbone)}, ?, ?]"


class Classifier(Network):
    """To scores [N, classes]."""

    PARTS, MAY = words("backbone head"), words("neck data_preprocessor")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone(x)
        neck = self._modules.get("neck")
        return self.head(features if neck is None else neck(features))


class Pooling(Block):
    """Each feature as one number a channel."""

    PARTS = words("gap")

    def forward(self, features: Features | torch.Tensor) -> Features | torch.Tensor:
        if isinstance(features, torch.Tensor):
            return self.gap(features).flatten(1)
        return tuple(self.gap(each).flatten(1) for each in features)


class Head(Block):
    """The last feature, which is scores already."""

    MAY = words("loss_module")

    def forward(self, features: Features) -> torch.Tensor:
        return features[-1]


class LinearHead(Head):
    PARTS = words("fc")

    def forward(self, features: Features) -> torch.Tensor:
        return self.fc(features[-1])


class StackedHead(Head):
    PARTS = words("layers")

    def forward(self, features: Features) -> torch.Tensor:
        x = features[-1]
        for layer in self.layers:
            x = layer(x)
        return x


class StackedLayer(Block):
    PARTS, MAY = words("fc"), words("norm act dropout")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        for name in ("norm", "act"):
            part = self._modules.get(name)
            x = x if part is None else part(x)
        return x


class TokenHead(Head):
    """Of the token for the class."""

    PARTS = words("layers")

    def forward(self, features: Features) -> torch.Tensor:
        return self.layers(features[-1])
