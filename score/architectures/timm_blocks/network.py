"""What all networks of timm have in common."""

from typing import Any

from torch import nn

from score.architectures.block import Block, words
from score.architectures.timm_blocks.layers import Chain


class Network(Block):
    """A network from pictures [N, C, H, W] to classes [N, K], of the one size that it says, or of any."""

    KEPT = words("pretrained_cfg")

    @property
    def takes(self) -> str:
        first = next((part for part in self.modules() if isinstance(part, nn.Conv2d)), None)
        high, wide = self.size
        return f"float32[N, {first.in_channels if first else 3}, {high}, {wide}]"

    @property
    def size(self) -> tuple[Any, Any]:
        return "?", "?"


class ChainNetwork(Network, Chain):
    """One part after the other."""
