"""timm's kinds of attention, by stand-ins under its names, each head and each window computed by itself.

`make test-blocks` holds the networks against timm itself.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.architectures.stand_ins import StandIns
from tests.architectures.test_torchvision_blocks import rebuilt


class PatchEmbed(nn.Module):
    def __init__(self, flatten: bool) -> None:
        super().__init__()
        self.img_size, self.flatten = (16, 16), flatten
        self.proj = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x).permute(0, 2, 3, 1)
        return x.flatten(1, 2) if self.flatten else x


class Mlp(nn.Module):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(size, 12), nn.GELU(), nn.Linear(12, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


def biased(part: Any) -> None:
    """Queries, keys and values of two heads of 4, with biases of their own but for keys."""
    part.num_heads, part.scale = 2, 0.5
    part.qkv, part.proj = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
    part.q_bias, part.v_bias = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))
    part.register_buffer("k_bias", torch.zeros(8))


def heads(part: Any, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    q, k, v = part.qkv(x).split(8, -1)
    yield from zip((q + part.q_bias).split(4, -1), k.split(4, -1), (v + part.v_bias).split(4, -1), strict=True)


class RelativePositionBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.rand(30, 2))
        self.register_buffer("relative_position_index", torch.randint(0, 30, (17, 17)))

    def forward(self) -> torch.Tensor:
        index: Any = self.relative_position_index
        return torch.stack([self.relative_position_bias_table[:, head][index] for head in range(2)])


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        biased(self)
        self.fused_attn, self.attn_drop = fused, nn.Dropout(0.1)
        self.relative_position_bias_table = nn.Parameter(torch.rand(30, 2))
        self.register_buffer("relative_position_index", torch.randint(0, 30, (17, 17)))

    def forward(self, x: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
        found = []
        for head, (q, k, v) in enumerate(heads(self, x)):
            bias = self.relative_position_bias_table[:, head][self.relative_position_index]
            bias = bias if shared is None else bias + shared[head]
            found.append((q @ k.transpose(1, 2) / 2 + bias).softmax(-1) @ v)
        return self.proj(torch.cat(found, -1))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = nn.LayerNorm(8), Attention(fused), nn.Identity()
        self.norm2, self.mlp, self.drop_path2 = nn.LayerNorm(8), Mlp(), nn.Identity()
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

    def forward(self, x: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), shared)
        return x + self.gamma_2 * self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Beit(nn.Module):
    def __init__(self, fused: bool, shared: bool) -> None:
        super().__init__()
        self.global_pool, self.num_prefix_tokens = "avg", 1
        self.patch_embed, self.pos_drop = PatchEmbed(flatten=True), nn.Dropout(0.1)
        self.cls_token, self.pos_embed = nn.Parameter(torch.rand(1, 1, 8)), None
        self.rel_pos_bias = RelativePositionBias() if shared else None
        self.blocks = nn.ModuleList([Block(fused), Block(fused)])
        self.norm, self.fc_norm, self.head = nn.Identity(), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.cls_token.expand(len(x), 1, 8), self.patch_embed(x)), 1)
        for block in self.blocks:
            x = block(x, None if self.rel_pos_bias is None else self.rel_pos_bias())
        return self.head(self.fc_norm(x[:, 1:].mean(1)))  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Of windows of two by two."""

    def __init__(self) -> None:
        super().__init__()
        biased(self)
        self.logit_scale = nn.Parameter(torch.tensor([[[2.0]], [[9.0]]]))  # the second is more than may be
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2, bias=False))
        self.register_buffer("relative_coords_table", torch.rand(1, 3, 3, 2))
        self.register_buffer("relative_position_index", torch.randint(0, 9, (4, 4)))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        table = self.cpb_mlp(self.relative_coords_table).reshape(9, 2)
        found = []
        for head, (q, k, v) in enumerate(heads(self, x)):
            near = (
                F.cosine_similarity(q[:, :, None], k[:, None], -1)
                * self.logit_scale[head].clamp(max=math.log(100)).exp()
            )
            bias = 16 * table[:, head][self.relative_position_index].sigmoid()
            near = near + bias if mask is None else near + bias + mask.repeat(len(x) // len(mask), 1, 1)
            found.append(near.softmax(-1) @ v)
        return self.proj(torch.cat(found, -1))  # type: ignore[no-any-return]


class SwinTransformerV2Block(nn.Module):
    def __init__(self, shift: int) -> None:
        super().__init__()
        self.window_size, self.shift_size, self.dynamic_mask = (2, 2), (shift, shift), False
        self.norm1, self.attn, self.drop_path1 = nn.LayerNorm(8), WindowAttention(), nn.Identity()
        self.norm2, self.mlp, self.drop_path2 = nn.LayerNorm(8), Mlp(), nn.Identity()
        self.register_buffer("attn_mask", -100.0 * torch.randint(0, 2, (4, 4, 4)) if shift else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = self.shift_size[0]
        y, mask = torch.roll(x, (-shift, -shift), (1, 2)), self.attn_mask
        out = torch.empty_like(y)
        for at in range(4):  # the windows of four by four patches
            high, wide = 2 * (at // 2), 2 * (at % 2)
            window = y[:, high : high + 2, wide : wide + 2].reshape(-1, 4, 8)
            out[:, high : high + 2, wide : wide + 2] = self.attn(
                window, None if mask is None else mask[at : at + 1]
            ).view(-1, 2, 2, 8)
        x = x + self.norm1(torch.roll(out, (shift, shift), (1, 2)))
        return x + self.norm2(self.mlp(x))  # type: ignore[no-any-return]


class PatchMerging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduction, self.norm = nn.Linear(32, 8, bias=False), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = [x[:, high::2, wide::2] for wide in (0, 1) for high in (0, 1)]
        return self.norm(self.reduction(torch.cat(corners, -1)))  # type: ignore[no-any-return]


class SwinTransformerV2Stage(nn.Module):
    def __init__(self, downsample: nn.Module, *blocks: nn.Module) -> None:
        super().__init__()
        self.downsample, self.blocks = downsample, nn.ModuleList(blocks)


class ClassifierHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.global_pool, self.fc = FastAdaptiveAvgPool(), nn.Linear(8, 5)


class FastAdaptiveAvgPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dim = True, (1, 2)


class SwinTransformerV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = SwinTransformerV2Stage(nn.Identity(), SwinTransformerV2Block(0), SwinTransformerV2Block(1))
        self.patch_embed, self.norm, self.head = PatchEmbed(flatten=False), nn.LayerNorm(8), ClassifierHead()
        self.layers = nn.ModuleList([first, SwinTransformerV2Stage(PatchMerging())])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = block(x)
        return self.head.fc(self.norm(x).mean((1, 2)))  # type: ignore[no-any-return]


class AttentionPoolLatent(nn.Module):
    def __init__(self, pool: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.latent_len, self.scale, self.pool = 2, 4, 3, 0.5, pool
        self.latent, self.pos_embed = nn.Parameter(torch.rand(1, 3, 8)), nn.Parameter(torch.rand(16, 8))
        self.q, self.kv, self.proj, self.norm = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8), nn.LayerNorm(8)
        self.mlp = Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, (k, v) = self.q(self.latent).split(4, -1), self.kv(x + self.pos_embed).split(8, -1)
        found = [
            (q[head] @ k.split(4, -1)[head].transpose(1, 2) / 2).softmax(-1) @ v.split(4, -1)[head] for head in range(2)
        ]
        x = self.proj(torch.cat(found, -1))
        x = x + self.mlp(self.norm(x))
        return x[:, 0] if self.pool == "token" else x.mean(1)


class VisionTransformer(nn.Module):
    def __init__(self, pool: str) -> None:
        super().__init__()
        self.global_pool, self.num_prefix_tokens = "map", 0
        self.patch_embed, self.pos_drop, self.blocks = PatchEmbed(flatten=True), nn.Identity(), nn.Sequential()
        self.norm, self.attn_pool, self.head = nn.LayerNorm(8), AttentionPoolLatent(pool), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attn_pool(self.norm(self.patch_embed(x))))  # type: ignore[no-any-return]


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.mlp_tokens, self.norm2, self.mlp_channels = nn.LayerNorm(8), Mlp(16), nn.LayerNorm(8), Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mlp_tokens(self.norm1(x).mT).mT
        return x + self.mlp_channels(self.norm2(x))  # type: ignore[no-any-return]


class MlpMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.global_pool, self.stem, self.blocks = "avg", PatchEmbed(flatten=True), nn.Sequential(MixerBlock())
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean(1))  # type: ignore[no-any-return]


STAND_INS = StandIns(
    {
        "timm.layers.patch_embed": (PatchEmbed,),
        "timm.layers.mlp": (Mlp,),
        "timm.layers.adaptive_avgmax_pool": (FastAdaptiveAvgPool,),
        "timm.layers.classifier": (ClassifierHead,),
        "timm.layers.attention_pool": (AttentionPoolLatent,),
        "timm.models.beit": (Beit, Block, Attention, RelativePositionBias),
        "timm.models.swin_transformer_v2": (
            SwinTransformerV2, SwinTransformerV2Stage, SwinTransformerV2Block, WindowAttention, PatchMerging
        ),
        "timm.models.vision_transformer": (VisionTransformer,),
        "timm.models.mlp_mixer": (MlpMixer, MixerBlock),
    }
)  # fmt: skip
NETWORKS = {
    "BEiT": lambda: Beit(fused=True, shared=False),
    "BEiT, shared": lambda: Beit(fused=True, shared=True),
    "BEiT, step by step": lambda: Beit(fused=False, shared=True),
    "Swin v2": SwinTransformerV2,
    "pooled by attention": lambda: VisionTransformer("token"),
    "pooled by attention, averaged": lambda: VisionTransformer("avg"),
    "MLP-Mixer": MlpMixer,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network(tmp_path: Path, name: str) -> None:
    STAND_INS.put()
    torch.manual_seed(5)
    net, pixels = NETWORKS[name]().eval(), torch.rand(2, 3, 16, 16)
    path = STAND_INS.saved(net, tmp_path / "net.pt")
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(path)(pixels), net(pixels))
