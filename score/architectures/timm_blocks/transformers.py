"""timm's transformers of pictures, and their blocks: ViT, DeiT, Swin.

Sources: the papers that each class names; the names of parts are those in the files.
"""

from typing import Any

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.timm_blocks.layers import Chain, order
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
    MAY = words("patch_drop norm_pre fc_norm head_drop pre_logits")
    KEPT = Network.KEPT | words("global_pool num_prefix_tokens no_embed_class dynamic_img_size pool_include_prefix")

    def unknown(self) -> str:
        said = self.__dict__
        odd = [name for name in ("dynamic_img_size", "pool_include_prefix") if said.get(name)]
        odd += [] if said.get("global_pool", "token") in ("token", "avg", "") else ["global_pool"]
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
        if pool == "avg":
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


class SwinTransformer(Network):
    """Liu 2021; as timm has it since 0.9, on [N, H, W, C]."""

    PARTS = words("patch_embed layers norm head")
    KEPT = Network.KEPT | words("dynamic_img_size")

    def unknown(self) -> str:
        return "dynamic_img_size" if self.__dict__.get("dynamic_img_size") else ""

    @property
    def size(self) -> tuple[Any, Any]:
        return self.patch_embed.size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layers(self.patch_embed(x))))


class SwinStage(Chain):
    PARTS, ORDER = words("downsample blocks"), order("downsample blocks")


class PatchMerging(Block):
    PARTS = words("norm reduction")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [N, h, 2, w, 2, C]
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class WindowAttention(Block):
    """[windows, T, C], with a bias for each distance, and a mask for windows of several parts."""

    PARTS, MAY = words("qkv proj"), words("attn_drop proj_drop softmax")
    KEPT, NEEDS = words("window_area num_heads scale fused_attn"), words("window_area num_heads scale")

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        rows, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(rows, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(self.window_area, self.window_area, -1).permute(2, 0, 1).contiguous()[None]
        if mask is not None:
            masks = mask[None, :, None].expand(rows // len(mask), -1, self.num_heads, -1, -1)
            bias = bias + masks.reshape(-1, self.num_heads, length, length)
        if self.__dict__.get("fused_attn"):
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(rows, length, -1))


class SwinBlock(TransformerBlock):
    """Attention within windows [N, H, W, C], which every other block shifts."""

    MAY = words("drop_path1 drop_path2")
    KEPT, NEEDS = words("window_size shift_size dynamic_mask"), words("window_size shift_size")

    def unknown(self) -> str:
        pairs = all(isinstance(each, tuple) and len(each) == 2 for each in (self.window_size, self.shift_size))
        return "dynamic_mask" if self.__dict__.get("dynamic_mask") else "" if pairs else "window_size"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.windows(self.norm1(x))
        return x + self.mlp(self.norm2(x).flatten(1, 2)).view(x.shape)

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        rows, high, wide, channels = x.shape
        (down, across), shift = self.window_size, any(self.shift_size)
        x = torch.roll(x, [-each for each in self.shift_size], (1, 2)) if shift else x
        x = F.pad(x, (0, 0, 0, -wide % across, 0, -high % down))
        tall, broad = x.shape[1:3]
        x = x.unflatten(2, (-1, across)).unflatten(1, (-1, down)).transpose(2, 3)  # [N, h, w, down, across, C]
        x = self.attn(x.reshape(-1, down * across, channels), self._buffers.get("attn_mask"))
        x = x.view(rows, tall // down, broad // across, down, across, channels).transpose(2, 3)
        x = x.reshape(rows, tall, broad, channels)[:, :high, :wide]
        return torch.roll(x, self.shift_size, (1, 2)) if shift else x
