"""Backbones of attention: Vision Transformer (Dosovitskiy 2020), Swin (Liu 2021), Mix Transformer (Xie 2021).

The names of parts and attributes are those in the files.
"""

import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.block import Block, words
from score.architectures.openmmlab_blocks.convolutions import Features

Size = tuple[int, int]


class PatchEmbed(Block):
    """Pictures as rows of patches, and how many there are down and across."""

    PARTS, MAY = words("projection"), words("adaptive_padding norm")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Size]:
        pad, norm = (self._modules.get(name) for name in ("adaptive_padding", "norm"))
        x = self.projection(x if pad is None else pad(x))
        size = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        return x if norm is None else norm(x), size


class FeedForward(Block):
    PARTS, MAY = words("layers"), words("dropout_layer gamma2")
    KEPT = NEEDS = words("add_identity")

    def forward(self, x: torch.Tensor, identity: torch.Tensor | None = None) -> torch.Tensor:
        scale = self._modules.get("gamma2")
        y = self.layers(x)
        y = y if scale is None else scale(y)
        return (x if identity is None else identity) + y if self.add_identity else y


class VisionTransformer(Block):
    PARTS, MAY = words("patch_embed layers"), words("drop_after_pos pre_norm ln1 ln2")
    KEPT = words("patch_resolution out_type final_norm out_indices num_extra_tokens interpolate_mode")
    NEEDS = words("patch_resolution out_type final_norm out_indices")

    def unknown(self) -> str:
        good = self.out_type in ("raw", "cls_token", "avg_featmap", "featmap")
        return "" if good and ("ln1" in self._modules) == bool(self.final_norm) else "out_type"

    @property
    def extra(self) -> int:
        return int(self.__dict__.get("num_extra_tokens", 1))

    def forward(self, x: torch.Tensor) -> Features:
        x, size = self.patch_embed(x)
        if (token := self._parameters.get("cls_token")) is not None:
            x = torch.cat((token.expand(len(x), -1, -1), x), 1)
        mode = self.__dict__.get("interpolate_mode", "bicubic")
        x = x + places(self.pos_embed, tuple(self.patch_resolution), size, mode, self.extra)
        x = self.pre_norm(x) if "pre_norm" in self._modules else x
        found = []
        for at, layer in enumerate(self.layers):
            x = layer(x)
            x = self.ln1(x) if self.final_norm and at == len(self.layers) - 1 else x
            if at in self.out_indices:
                found.append(self._given(x, size))
        return tuple(found)

    def _given(self, x: torch.Tensor, size: Size) -> torch.Tensor:
        if self.out_type in ("raw", "cls_token"):
            return x if self.out_type == "raw" else x[:, 0]
        x = x[:, self.extra :]
        if self.out_type == "avg_featmap":
            return self.ln2(x.mean(dim=1))
        return x.reshape(len(x), *size, -1).permute(0, 3, 1, 2)


def places(learnt: torch.Tensor, before: Size, size: Size, mode: str, extra: int) -> torch.Tensor:
    """What was learnt for each place, for a picture of another size."""
    if before == size:
        return learnt
    first, rest = learnt[:, :extra], learnt[:, extra:]
    rest = rest.reshape(1, *before, -1).permute(0, 3, 1, 2)
    rest = F.interpolate(rest.float(), size=size, align_corners=False, mode=mode).to(rest.dtype)
    return torch.cat((first, rest.flatten(2).transpose(1, 2)), 1)


class EncoderLayer(Block):
    PARTS = words("ln1 attn ln2 ffn")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        return self.ffn(self.ln2(x), identity=x)


class Attention(Block):
    PARTS, MAY = words("qkv proj"), words("proj_drop out_drop gamma1")
    KEPT = words("num_heads head_dims embed_dims v_shortcut scaled_dot_product_attention")
    NEEDS = words("num_heads head_dims embed_dims v_shortcut scaled_dot_product_attention")

    def unknown(self) -> str:
        """Another function than torch's is one with a scale of its own."""
        return "" if self.scaled_dot_product_attention is F.scaled_dot_product_attention else "qk_scale"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, count, _ = x.shape
        q, k, v = self.qkv(x).reshape(rows, count, 3, self.num_heads, self.head_dims).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, count, self.embed_dims)
        scale = self._modules.get("gamma1")
        y = self.proj(y) if scale is None else scale(self.proj(y))
        return v.squeeze(1) + y if self.v_shortcut else y


class Swin(Block):
    PARTS, MAY = words("patch_embed stages"), words("drop_after_pos norm0 norm1 norm2 norm3")
    KEPT = words("out_indices use_abs_pos_embed out_after_downsample num_features patch_resolution interpolate_mode")
    NEEDS = words("out_indices use_abs_pos_embed num_features")

    def unknown(self) -> str:
        return "" if all(f"norm{at}" in self._modules for at in self.out_indices) else "out_indices"

    def forward(self, x: torch.Tensor) -> Features:
        x, size = self.patch_embed(x)
        said = self.__dict__
        if self.use_abs_pos_embed:
            mode = said.get("interpolate_mode", "bicubic")
            x = x + places(self.absolute_pos_embed, tuple(self.patch_resolution), size, mode, 0)
        after = said.get("out_after_downsample", False)
        found = []
        for at, stage in enumerate(self.stages):
            x, size = stage(x, size, after)
            if at in self.out_indices:
                y = getattr(self, f"norm{at}")(x)
                found.append(y.view(-1, *size, self.num_features[at]).permute(0, 3, 1, 2).contiguous())
            if not after:
                x, size = stage.smaller(x, size)
        return tuple(found)


class SwinStage(Block):
    PARTS, MAY = words("blocks"), words("downsample")

    def smaller(self, x: torch.Tensor, size: Size) -> tuple[torch.Tensor, Size]:
        turn = self._modules.get("downsample")
        return (x, size) if turn is None else turn(x, size)

    def forward(self, x: torch.Tensor, size: Size, downsampled: bool) -> tuple[torch.Tensor, Size]:
        for block in self.blocks:
            x = block(x, size)
        return self.smaller(x, size) if downsampled else (x, size)


class SwinBlock(Block):
    PARTS = words("norm1 attn norm2 ffn")

    def forward(self, x: torch.Tensor, size: Size) -> torch.Tensor:
        x = self.attn(self.norm1(x), size) + x
        return self.ffn(self.norm2(x), identity=x)


class PatchMerging(Block):
    PARTS, MAY = words("sampler reduction"), words("adaptive_padding norm")
    KEPT = words("use_post_norm")

    def unknown(self) -> str:
        return "use_post_norm" if self.__dict__.get("use_post_norm") else ""

    def forward(self, x: torch.Tensor, size: Size) -> tuple[torch.Tensor, Size]:
        pad, norm, take = (self._modules.get(name) for name in ("adaptive_padding", "norm", "sampler"))
        assert isinstance(take, nn.Unfold)
        x = x.view(len(x), *size, -1).permute(0, 3, 1, 2)
        x = x if pad is None else pad(x)
        high, wide = (
            (length + 2 * around - gap * (side - 1) - 1) // step + 1
            for length, around, gap, side, step in zip(
                x.shape[-2:], _pair(take.padding), _pair(take.dilation), _pair(take.kernel_size), _pair(take.stride),
                strict=True,
            )
        )  # fmt: skip
        x = take(x).transpose(1, 2)
        return self.reduction(x if norm is None else norm(x)), (high, wide)


def _pair(said: int | tuple[int, ...]) -> tuple[int, ...]:
    return (said, said) if isinstance(said, int) else said


class ShiftedWindows(Block):
    """Attention within windows, which every other time lie half a window further."""

    PARTS, MAY = words("w_msa"), words("drop")
    KEPT = words("window_size shift_size pad_small_map")
    NEEDS = words("window_size shift_size")

    def unknown(self) -> str:
        good = (
            type(self.window_size) is int and type(self.shift_size) is int and 0 <= self.shift_size < self.window_size
        )
        return "" if good else "window_size"

    def forward(self, x: torch.Tensor, size: Size) -> torch.Tensor:
        window, shift = self.window_size, self.shift_size
        rows, _, channels = x.shape
        if "pad_small_map" in self.__dict__ and min(size) <= window and not self.pad_small_map:
            if min(size) < window:
                raise ValueError(f"features of {list(size)} are smaller than a window of {window}")
            shift = 0
        x = x.view(rows, *size, channels)
        x = F.pad(x, (0, 0, 0, -size[1] % window, 0, -size[0] % window))
        high, wide = x.shape[1:3]
        x = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
        mask = _apart(high, wide, window, shift, x) if shift else None
        y = _windowed(self.w_msa(_windows(x, window), mask), window, high, wide)
        y = torch.roll(y, (shift, shift), (1, 2)) if shift else y
        return y[:, : size[0], : size[1]].reshape(rows, size[0] * size[1], channels)


def _windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """[N, H, W, C] as [N x windows, places, C]."""
    rows, high, wide, channels = x.shape
    x = x.view(rows, high // window, window, wide // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def _windowed(x: torch.Tensor, window: int, high: int, wide: int) -> torch.Tensor:
    """The reverse of `_windows`."""
    x = x.view(-1, high // window, wide // window, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, high, wide, x.shape[-1])


def _apart(high: int, wide: int, window: int, shift: int, like: torch.Tensor) -> torch.Tensor:
    """-100 between places of a window that are not beside each other in the picture: [windows, places, places]."""
    down, across = (
        (torch.arange(length, device=like.device) >= length - window).long()
        + (torch.arange(length, device=like.device) >= length - shift).long()
        for length in (high, wide)
    )
    regions = _windows((down[:, None] * 3 + across[None]).to(like.dtype)[None, :, :, None], window)[..., 0]
    return (regions[:, None] != regions[:, :, None]).to(like.dtype) * -100.0


class WindowAttention(Block):
    PARTS, MAY = words("qkv proj"), words("attn_drop proj_drop softmax")
    KEPT = NEEDS = words("window_size num_heads scale")

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        rows, count, channels = x.shape
        q, k, v = self.qkv(x).reshape(rows, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(count, count, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous()[None]
        if mask is not None:
            scores = scores.view(-1, len(mask), self.num_heads, count, count) + mask[None, :, None]
            scores = scores.view(-1, self.num_heads, count, count)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, count, channels))


class MixTransformer(Block):
    PARTS = words("layers")
    KEPT = NEEDS = words("out_indices")

    def forward(self, x: torch.Tensor) -> Features:
        found = []
        for at, (embed, blocks, norm) in enumerate(self.layers):
            x, size = embed(x)
            for block in blocks:
                x = block(x, size)
            x = as_picture(norm(x), size)
            if at in self.out_indices:
                found.append(x)
        return tuple(found)


def as_picture(x: torch.Tensor, size: Size) -> torch.Tensor:
    return x.transpose(1, 2).reshape(len(x), -1, *size).contiguous()


def as_rows(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()


class MixLayer(Block):
    PARTS = words("norm1 attn norm2 ffn")

    def forward(self, x: torch.Tensor, size: Size) -> torch.Tensor:
        x = self.attn(self.norm1(x), size, x)
        return self.ffn(self.norm2(x), size, x)


class MixFeedForward(Block):
    PARTS, MAY = words("layers"), words("activate dropout_layer")

    def forward(self, x: torch.Tensor, size: Size, identity: torch.Tensor) -> torch.Tensor:
        return identity + as_rows(self.layers(as_picture(x, size)))


class ReducedAttention(Block):
    """Keys and values of a picture made smaller."""

    PARTS, MAY = words("attn"), words("sr norm proj_drop dropout_layer")
    KEPT = NEEDS = words("sr_ratio batch_first")

    def forward(self, x: torch.Tensor, size: Size, identity: torch.Tensor) -> torch.Tensor:
        some = self.norm(as_rows(self.sr(as_picture(x, size)))) if self.sr_ratio > 1 else x
        if self.batch_first:
            x, some = x.transpose(0, 1), some.transpose(0, 1)
        y = self.attn(query=x, key=some, value=some)[0]
        return identity + (y.transpose(0, 1) if self.batch_first else y)
