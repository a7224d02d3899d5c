"""Attention in timm's transformers of pictures: [N, T, C], among T patches or those of a window.

Sources: the papers that each class names; the names of parts are those in the files.
"""

import math
from typing import Any

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words


class Attention(Block):
    """Self-attention (Vaswani 2017): [N, T, C]."""

    PARTS, MAY = words("qkv proj"), words("q_norm k_norm attn_drop norm proj_drop")
    KEPT, NEEDS = words("num_heads scale fused_attn"), words("num_heads scale")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(rows, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = attended(self, through(self, "q_norm", q), through(self, "k_norm", k), v)
        x = x.transpose(1, 2).reshape(rows, length, -1)
        return self.proj(self.norm(x) if "norm" in self._modules else x)


def attended(
    block: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """[N, heads, T, C], in one step or in several, as the block says: they round differently."""
    if block.__dict__.get("fused_attn"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    weights = (q * block.scale) @ k.transpose(-2, -1)
    return (weights if bias is None else weights + bias).softmax(-1) @ v


def through(block: Block, name: str, x: torch.Tensor) -> torch.Tensor:
    """What a part of a block makes of it; as it is where there is none."""
    part = block._modules.get(name)
    return x if part is None else part(x)


def separate_biases(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values [3, N, heads, T, C] of a block whose biases are not its layer's own; keys have none."""
    q, k, v = block._parameters.get("q_bias"), block._buffers.get("k_bias"), block._parameters.get("v_bias")
    bias = None if q is None else torch.cat((q, k, v))
    if bias is None or block.__dict__.get("qkv_bias_separate"):
        made = block.qkv(x) if bias is None else block.qkv(x) + bias
    else:
        made = F.linear(x, block.qkv.weight, bias)
    return made.reshape(*x.shape[:2], 3, block.num_heads, -1).permute(2, 0, 3, 1, 4)


def by_distance(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """A bias for each head and each pair of places [heads, T, T], of one for each distance."""
    return table[index.view(-1)].view(*index.shape, -1).permute(2, 0, 1).contiguous()


class DistanceBias(Block):
    """The bias for all blocks of a network."""

    def forward(self) -> torch.Tensor:
        return by_distance(self.relative_position_bias_table, self.relative_position_index)


class BeitAttention(Block):
    """Bao 2021: with a bias for each distance, the block's own or the network's."""

    PARTS, MAY = words("qkv proj"), words("attn_drop proj_drop")
    KEPT, NEEDS = words("num_heads scale fused_attn qkv_bias_separate"), words("num_heads scale")

    def forward(self, x: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
        rows, length, _ = x.shape
        q, k, v = separate_biases(self, x)
        bias, table = shared, self._parameters.get("relative_position_bias_table")
        if table is not None:
            own = by_distance(table, self.relative_position_index)[None]
            bias = own if shared is None else own + shared
        return self.proj(attended(self, q, k, v, bias).transpose(1, 2).reshape(rows, length, -1))


class AttentionPoolLatent(Block):
    """Attention of a few learnt queries to all patches (Zhai 2023): [N, T, C] to [N, C]."""

    PARTS, MAY = words("q kv"), words("q_norm k_norm proj proj_drop norm mlp")
    KEPT = words("num_heads head_dim latent_len scale pool fused_attn")
    NEEDS = words("num_heads head_dim latent_len scale pool")

    def unknown(self) -> str:
        return "" if self.__dict__["pool"] in ("token", "avg") else "pool"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, channels = x.shape
        places = self._parameters.get("pos_embed")
        x = x if places is None else x + places[None]
        q = self.q(self.latent.expand(rows, -1, -1))
        q = q.reshape(rows, self.latent_len, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = self.kv(x).reshape(rows, length, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        x = attended(self, through(self, "q_norm", q), through(self, "k_norm", k), v)
        x = through(self, "proj", x.transpose(1, 2).reshape(rows, self.latent_len, channels))
        x = x if self._modules.get("mlp") is None else x + self.mlp(through(self, "norm", x))
        return x[:, 0] if self.__dict__["pool"] == "token" else x.mean(1)


class WindowAttention(Block):
    """[windows, T, C], with a bias for each distance, and a mask for windows of several parts."""

    PARTS, MAY = words("qkv proj"), words("attn_drop proj_drop softmax")
    KEPT, NEEDS = words("window_area num_heads scale fused_attn"), words("window_area num_heads scale")

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        rows, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(rows, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        index = self.relative_position_index.view(self.window_area, self.window_area)
        bias = by_distance(self.relative_position_bias_table, index)[None]
        if mask is not None:
            masks = mask[None, :, None].expand(rows // len(mask), -1, self.num_heads, -1, -1)
            bias = bias + masks.reshape(-1, self.num_heads, length, length)
        return self.proj(attended(self, q, k, v, bias).transpose(1, 2).reshape(rows, length, -1))


class CosineWindowAttention(Block):
    """Liu 2022: by the angle between queries and keys, with a bias that a perceptron makes of the distance."""

    PARTS, MAY = words("cpb_mlp qkv proj"), words("attn_drop proj_drop softmax")
    KEPT, NEEDS = words("num_heads qkv_bias_separate"), words("num_heads")

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        rows, length, _ = x.shape
        q, k, v = separate_biases(self, x)
        scale = torch.clamp(self.logit_scale, max=math.log(100)).exp()
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        weights = weights + (16 * by_distance(table, self.relative_position_index).sigmoid())[None]
        if mask is not None:
            masked = weights.view(-1, len(mask), self.num_heads, length, length) + mask[None, :, None]
            weights = masked.view(-1, self.num_heads, length, length)
        x = weights.softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(rows, length, -1))
