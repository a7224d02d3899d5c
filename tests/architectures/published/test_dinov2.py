"""DINOv2 under Meta's names, against the network as its paper and its files have it."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import score
from score.errors import LoadError

WIDTH, SIDE, PATCH = 128, 3, 14


class Mlp(nn.Module):
    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        if gated:
            hidden = (int(4 * WIDTH * 2 / 3) + 7) // 8 * 8
            self.w12, self.w3 = nn.Linear(WIDTH, 2 * hidden), nn.Linear(hidden, WIDTH)
        else:
            self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.gated:
            return self.fc2(F.gelu(self.fc1(x)))
        one, other = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(one) * other)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(2, (-1, 64)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn, self.mlp, self.ls1, self.ls2 = Attention(), Mlp(gated), Scale(), Scale()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Dino(nn.Module):
    def __init__(self, gated: bool, registers: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, SIDE * SIDE + 1, WIDTH))
        self.mask_token = nn.Parameter(torch.randn(1, WIDTH))
        self.register_tokens = nn.Parameter(torch.randn(1, registers, WIDTH)) if registers else None
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.blocks = nn.ModuleList(Block(gated) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("gated", [False, True])
def test_it_computes_what_the_paper_has(tmp_path: Path, gated: bool, registers: int, chunked: bool) -> None:
    torch.manual_seed(1)
    dino = Dino(gated, registers).eval()
    state = dino.state_dict()
    if chunked:
        state = {
            name.replace("blocks.", f"blocks.{name[7:8]}.") if "blocks." in name else name: v
            for name, v in state.items()
        }
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    served = score.load(tmp_path)
    assert type(served).__name__ == ("Dinov2WithRegistersModel" if registers else "Dinov2Model")
    pixels = torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)
    with torch.inference_mode():
        found = served(pixels).last_hidden_state
        torch.testing.assert_close(found, dino(pixels), rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_missing_is_no_shorter_model(tmp_path: Path) -> None:
    state = {name: value for name, value in Dino(False, 0).state_dict().items() if not name.startswith("blocks.1.")}
    torch.save(state, tmp_path / "dino.pth")
    with pytest.raises(LoadError):
        score.load(tmp_path)
