"""timm's transformers of pictures, and their blocks: ViT, DeiT, BEiT; MLP-Mixer, which has no attention.

Sources: the papers that each class names; the names of parts are those in the files.
"""

from typing import Any

import torch

from score.architectures.block import Block, words
from score.architectures.timm_blocks.network import Network


class TransformerBlock(Block):
    """A transformer's: attention, and a perceptron, each added to what it was given."""

    PARTS, MAY = words("norm1 attn norm2 mlp"), words("ls1 ls2 drop_path drop_path1 drop_path2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attn(self.norm1(x))
        x = x + (self.ls1(y) if "ls1" in self._modules else y)
        y = self.mlp(self.norm2(x))
        return x + (self.ls2(y) if "ls2" in self._modules else y)


class VisionTransformer(Network):
    """Dosovitskiy 2020, Touvron 2022; with registers (Darcet 2023)."""

    PARTS = words("patch_embed pos_drop blocks norm head")
    MAY = words("patch_drop norm_pre fc_norm head_drop pre_logits attn_pool")
    KEPT = Network.KEPT | words("global_pool num_prefix_tokens no_embed_class dynamic_img_size pool_include_prefix")

    def unknown(self) -> str:
        said = self.__dict__
        odd = [name for name in ("dynamic_img_size", "pool_include_prefix") if said.get(name)]
        known = ("map",) if self._modules.get("attn_pool") is not None else ("token", "avg", "")
        odd += [] if said.get("global_pool", "token") in known else ["global_pool"]
        return ", ".join(odd)

    @property
    def size(self) -> tuple[Any, Any]:
        return self.patch_embed.size

    def embedded(self, x: torch.Tensor) -> torch.Tensor:
        """Patches with their places, behind the tokens for all of it: [N, T, C]."""
        x, places = self.patch_embed(x), self._parameters.get("pos_embed")
        tokens = [self._parameters.get(name) for name in ("cls_token", "dist_token", "reg_token")]
        before = [each.expand(len(x), -1, -1) for each in tokens if each is not None]
        if places is None:
            return torch.cat((*before, x), 1)
        if self.__dict__.get("no_embed_class"):
            return torch.cat((*before, x + places), 1)
        return torch.cat((*before, x), 1) + places

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedded(x)
        x = self.norm_pre(x) if "norm_pre" in self._modules else x
        return self.norm(self.blocks(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, pool = self.features(x), self.__dict__.get("global_pool", "token")
        if pool == "map":
            x = self.attn_pool(x[:, self.__dict__.get("num_prefix_tokens", 1) :])
        elif pool == "avg":
            x = x[:, self.__dict__.get("num_prefix_tokens", 1) :].mean(1)
        elif pool:
            x = x[:, 0]
        for name in ("fc_norm", "pre_logits"):
            x = self._modules[name](x) if self._modules.get(name) is not None else x  # type: ignore[misc]
        return self.head(x)


class Distilled(VisionTransformer):
    """Touvron 2020: the mean of what two tokens say."""

    PARTS = VisionTransformer.PARTS | words("head_dist")

    def unknown(self) -> str:
        return super().unknown() or ("global_pool" if self.__dict__.get("global_pool", "token") != "token" else "")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


class BeitBlock(Block):
    """Bao 2021."""

    PARTS, MAY = TransformerBlock.PARTS, words("drop_path1 drop_path2")

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        first, second = self._parameters.get("gamma_1"), self._parameters.get("gamma_2")
        y = self.attn(self.norm1(x), bias)
        x = x + (y if first is None else first * y)
        y = self.mlp(self.norm2(x))
        return x + (y if second is None else second * y)


class Beit(VisionTransformer):
    """Bao 2021."""

    MAY = VisionTransformer.MAY | words("rel_pos_bias")

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedded(x)
        bias = self.rel_pos_bias() if self._modules.get("rel_pos_bias") is not None else None
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)


class MixerBlock(Block):
    """Tolstikhin 2021: a perceptron among patches, and one among channels: [N, T, C]."""

    PARTS, MAY = words("norm1 mlp_tokens norm2 mlp_channels"), words("drop_path")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class MlpMixer(Network):
    """Tolstikhin 2021."""

    PARTS, MAY = words("stem blocks norm head"), words("head_drop")
    KEPT = Network.KEPT | words("global_pool")

    def unknown(self) -> str:
        return "" if self.__dict__.get("global_pool", "avg") == "avg" else "global_pool"

    @property
    def size(self) -> tuple[Any, Any]:
        return self.stem.size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean(1))
