"""Whisper as OpenAI publishes it, under the names of its own code, whose network is written down here once more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import score
from score.errors import LoadError

DIMS = {
    "n_mels": 80, "n_vocab": 51865, "n_audio_ctx": 20, "n_audio_state": 16, "n_audio_head": 4, "n_audio_layer": 2,
    "n_text_ctx": 12, "n_text_state": 16, "n_text_head": 4, "n_text_layer": 2,
}  # fmt: skip


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor, other: torch.Tensor, causal: bool) -> torch.Tensor:
        parts = (part(each) for part, each in ((self.query, x), (self.key, other), (self.value, other)))
        q, k, v = (part.unflatten(2, (4, -1)).transpose(1, 2) for part in parts)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, crosses: bool) -> None:
        super().__init__()
        self.attn, self.attn_ln, self.mlp_ln = Attention(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        if crosses:
            self.cross_attn, self.cross_attn_ln = Attention(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, heard: torch.Tensor | None = None) -> torch.Tensor:
        y = self.attn_ln(x)
        x = x + self.attn(y, y, heard is not None)
        if heard is not None:
            x = x + self.cross_attn(self.cross_attn_ln(x), heard, False)
        return x + self.mlp(self.mlp_ln(x))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(80, 16, 3, padding=1), nn.Conv1d(16, 16, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.randn(20, 16))
        self.blocks, self.ln_post = nn.ModuleList(Layer(16, False) for _ in range(2)), nn.LayerNorm(16)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2) + self.positional_embedding
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embedding, self.positional_embedding = nn.Embedding(51865, 16), nn.Parameter(torch.randn(12, 16))
        self.blocks, self.ln = nn.ModuleList(Layer(16, True) for _ in range(2)), nn.LayerNorm(16)

    def forward(self, tokens: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, heard)
        return self.ln(x) @ self.token_embedding.weight.T


class Whisper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def forward(self, mel: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(tokens, self.encoder(mel))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_computes_what_openais_own_does(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Whisper().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    model = model.to(dtype)
    torch.save({"dims": DIMS, "model_state_dict": model.state_dict()}, tmp_path / "tiny.pt")
    found: Any = score.load(tmp_path)
    assert {value.dtype for value in found.parameters()} == {dtype}
    mel, tokens = torch.randn(2, 80, 40), torch.tensor([[50258, 7, 9], [1, 2, 3]])
    theirs = found.float()(input_features=mel, decoder_input_ids=tokens).logits
    assert torch.allclose(theirs, model.float()(mel, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{"n_mels": "many"}, {"n_text_state": 0}, {"more": 1}, {"n_text_layer": 3}])
def test_other_dims_are_no_whispers(change: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"dims": {**DIMS, **change}, "model_state_dict": Whisper().state_dict()}, tmp_path / "tiny.pt")
    with pytest.raises(LoadError):
        score.load(tmp_path)
