"""CLIP under OpenAI's names, against the network as its paper and its files have it, written down here once more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import score
from score.errors import ArchitectureUndecided

WIDTH, TEXT, EMBED, WORDS, LENGTH, SIDE, PATCH = 512, 128, 32, 49, 12, 3, 4


class Block(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2, self.quick = nn.LayerNorm(width), nn.LayerNorm(width), quick
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 2 * width), "c_proj": nn.Linear(2 * width, width)})

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, quick: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(SIDE * SIDE + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH, 8, quick)
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBED) / 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        found: torch.Tensor = self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj
        return found


class Clip(nn.Module):
    def __init__(self, quick: bool) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(quick), Transformer(TEXT, TEXT // 64, quick)
        self.token_embedding = nn.Embedding(WORDS, TEXT)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, TEXT))
        self.ln_final = nn.LayerNorm(TEXT)
        self.text_projection = nn.Parameter(torch.randn(TEXT, EMBED) / 8)
        self.logit_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x, mask))
        texts = x[torch.arange(len(x)), tokens.argmax(1)] @ self.text_projection
        pictures = F.normalize(self.visual(pixels), dim=1)
        return self.logit_scale.exp() * pictures @ F.normalize(texts, dim=1).t()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    tokens = torch.randint(0, WORDS - 1, (2, LENGTH))
    tokens[0, 5], tokens[1, -1] = WORDS - 1, WORDS - 1
    return torch.randn(3, 3, SIDE * PATCH, SIDE * PATCH), tokens


def made(quick: bool) -> Clip:
    torch.manual_seed(1)
    return Clip(quick).eval()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("act", "quick"), [("quick_gelu", True), ("gelu", False)])
def test_it_scores_as_the_paper_has_it(tmp_path: Path, act: str, quick: bool, nested: bool) -> None:
    clip = made(quick)
    state: Any = clip.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if nested else state, tmp_path / "ViT-B-32.pt")
    served = score.load(tmp_path, architecture_kwargs={"hidden_act": act})
    pixels, tokens = inputs()
    with torch.inference_mode():
        found = served(input_ids=tokens, pixel_values=pixels).logits_per_image
        torch.testing.assert_close(found, clip(pixels, tokens), rtol=1e-4, atol=1e-4)


def test_weights_of_several_precisions_are_computed_in_float32(tmp_path: Path) -> None:
    clip = made(True)
    state = {
        name: value.half() if "ln_" not in name and "embedding" not in name else value
        for name, value in clip.state_dict().items()
    }
    extra: Any = {
        "input_resolution": torch.tensor(12),
        "context_length": torch.tensor(LENGTH),
        "vocab_size": torch.tensor(9),
    }
    torch.save(state | extra, tmp_path / "clip.pt")
    served = score.load(tmp_path, architecture_kwargs={"hidden_act": "quick_gelu"})
    clip.load_state_dict({name: value.float() for name, value in state.items()})
    pixels, tokens = inputs()
    with torch.inference_mode():
        found = served(input_ids=tokens, pixel_values=pixels).logits_per_image
        torch.testing.assert_close(found, clip(pixels, tokens), rtol=1e-4, atol=1e-4)


def test_what_no_tensor_tells_has_to_be_said(tmp_path: Path) -> None:
    torch.save(made(True).state_dict(), tmp_path / "clip.pt")
    with pytest.raises(ArchitectureUndecided, match="hidden_act") as raised:
        score.load(tmp_path)
    assert "quick_gelu" in raised.value.hint and "open_clip" in raised.value.hint
