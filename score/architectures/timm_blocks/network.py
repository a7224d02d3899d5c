"""What all networks of timm have in common."""

from typing import Any

from score.architectures.block import Block, channels_of, words
from score.architectures.timm_blocks.layers import Chain


class Network(Block):
    """A network from pictures [N, C, H, W] to classes [N, K], of the one size that it says, or of any."""

    KEPT = words("pretrained_cfg")

    @property
    def takes(self) -> str:
        high, wide = self.size
        return f"float32[N, {channels_of(self)}, {high}, {wide}]"

    @property
    def size(self) -> tuple[Any, Any]:
        return "?", "?"


class ChainNetwork(Network, Chain):
    """One part after the other."""
