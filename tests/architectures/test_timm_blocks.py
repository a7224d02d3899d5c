"""Pickled networks of timm, by stand-ins under its names, each of which computes by itself what is expected.

`make test-blocks` holds the networks against timm itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.torch_layers import NotPlain
from score.inference import pipeline
from score.settings import Settings
from tests.architectures.stand_ins import StandIns, changed, normalised
from tests.architectures.test_torchvision_blocks import rebuilt


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_size, self.flatten, self.dynamic_img_pad = (32, 32), True, False
        self.proj, self.norm = nn.Conv2d(3, 12, 8, 8), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.scale, self.fused_attn = 3, 0.5, False
        self.qkv, self.proj, self.attn_drop = nn.Linear(12, 36), nn.Linear(12, 12), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = []
        for at in range(3):  # each head by itself
            q, k, v = (self.qkv(x)[..., 12 * part + 4 * at : 12 * part + 4 * at + 4] for part in range(3))
            heads.append(((q @ k.transpose(1, 2)) / 2).softmax(-1) @ v)
        return self.proj(torch.cat(heads, -1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.drop1, self.fc2 = nn.Linear(12, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(12))


class DropPath(nn.Module):
    drop_prob = 0.3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(12), Attention(), LayerScale()
        self.norm2, self.mlp, self.drop_path1 = nn.LayerNorm(12), Mlp(), DropPath()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x)) * self.ls1.gamma
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.global_pool, self.num_prefix_tokens, self.no_embed_class = "token", 1, False
        self.feature_info = [object()]  # of no class that is known, and not needed
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "input_size": (3, 32, 32)}
        self.patch_embed, self.pos_drop, self.norm_pre = PatchEmbed(), nn.Dropout(0.1), nn.Identity()
        self.cls_token, self.pos_embed = nn.Parameter(torch.rand(1, 1, 12)), nn.Parameter(torch.rand(1, 17, 12))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.fc_norm, self.head = nn.LayerNorm(12), nn.Identity(), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.cls_token.expand(len(x), 1, 12), self.patch_embed(x)), 1) + self.pos_embed
        x = self.norm(self.blocks(x))
        x = x[:, 1:].mean(1) if self.global_pool == "avg" else x[:, 0]
        return self.head(x)  # type: ignore[no-any-return]


class BatchNormAct2d(nn.BatchNorm2d):
    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(super().forward(x))  # type: ignore[no-any-return]


class Conv2dSame(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # of two by two, of even pictures: a row and a column behind
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class BlurPool2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.channels, self.stride, self.padding, self.pad_mode = None, 1, [1] * 4, "reflect"
        self.register_buffer("filt", torch.tensor([[0.0, 1, 0], [1, 2, 3], [0, 4, 0]])[None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.pad(x, (1, 1, 1, 1), "reflect")
        up, left, right, down = y[..., :-2, 1:-1], y[..., 1:-1, :-2], y[..., 1:-1, 2:], y[..., 2:, 1:-1]
        return up + left + 2 * x + 3 * right + 4 * down


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_reduce, self.act1 = nn.Conv2d(6, 2, 1), nn.SiLU()
        self.conv_expand, self.gate = nn.Conv2d(2, 6, 1), nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * self.conv_expand(found).sigmoid()  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.has_skip, self.conv_s2d = True, None
        self.conv_pw, self.bn1 = nn.Conv2d(4, 6, 1, bias=False), BatchNormAct2d(6, nn.SiLU())
        self.conv_dw = nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False)
        self.bn2, self.aa, self.se = BatchNormAct2d(6, nn.SiLU()), BlurPool2d(), SqueezeExcite()
        self.conv_pwl, self.bn3 = nn.Conv2d(6, 4, 1, bias=False), BatchNormAct2d(4, nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.se(self.aa(self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))))
        return x + self.bn3(self.conv_pwl(y))  # type: ignore[no-any-return]


class SelectAdaptivePool2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool_type, self.pool, self.flatten = "avg", nn.AdaptiveAvgPool2d(1), nn.Flatten(1)


class EfficientNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = Conv2dSame(1, 4, 3, 2, bias=False), BatchNormAct2d(4, nn.SiLU())
        self.blocks = nn.Sequential(nn.Sequential(InvertedResidual()))
        self.conv_head, self.bn2 = nn.Conv2d(4, 8, 1, bias=False), BatchNormAct2d(8, nn.SiLU())
        self.global_pool, self.classifier = SelectAdaptivePool2d(), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn2(self.conv_head(self.blocks(self.bn1(self.conv_stem(x)))))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


STAND_INS = StandIns(
    {
        "timm.layers.patch_embed": (PatchEmbed,),
        "timm.layers.mlp": (Mlp,),
        "timm.layers.layer_scale": (LayerScale,),
        "timm.layers.drop": (DropPath,),
        "timm.layers.blur_pool": (BlurPool2d,),
        "timm.models.vision_transformer": (VisionTransformer, Block, Attention),
        "timm.models.layers.norm_act": (BatchNormAct2d,),  # where older versions have them
        "timm.models.layers.conv2d_same": (Conv2dSame,),
        "timm.layers.adaptive_avgmax_pool": (SelectAdaptivePool2d,),
        "timm.models.efficientnet": (EfficientNet,),
        "timm.models.efficientnet_blocks": (InvertedResidual, SqueezeExcite),
    }
)


@pytest.fixture(autouse=True)
def _in_their_packages() -> Iterator[None]:
    STAND_INS.put()
    yield
    STAND_INS.forget()


def made(cls: type[nn.Module]) -> Any:
    torch.manual_seed(5)
    return normalised(cls().eval())


PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_transformer(tmp_path: Path, pool: str) -> None:
    net = made(VisionTransformer)
    net.global_pool = pool
    with torch.inference_mode():
        wanted = net(PIXELS)
        torch.testing.assert_close(rebuilt(STAND_INS.saved(net, tmp_path / "vit.pt"))(PIXELS), wanted)


def test_a_network_of_convolutions(tmp_path: Path) -> None:
    net = made(EfficientNet)
    with torch.inference_mode():
        wanted = net(PIXELS[:, :1])
        torch.testing.assert_close(rebuilt(STAND_INS.saved(net, tmp_path / "net.pt"))(PIXELS[:, :1]), wanted)


def test_pictures_are_taken_as_the_file_says(tmp_path: Path) -> None:
    served = pipeline.load_model(Settings.load(STAND_INS.saved(made(VisionTransformer), tmp_path / "vit.pt")))
    assert served.report.architecture == "timm.models.vision_transformer.VisionTransformer"
    assert [list(spec.shape or ()) for spec in served.signature.inputs] == [[None, 3, 32, 32]]
    assert "mean [0.5, 0.5, 0.5]" in served.task.card()["images"]


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        ({"dynamic_img_size": True}, "dynamic_img_size"),
        ({"global_pool": "map"}, "global_pool"),
        ({"attn_pool": nn.Linear(12, 12)}, "global_pool"),
        ({"ffn": nn.Linear(12, 12)}, "ffn"),
        ({"patch_embed.dynamic_img_pad": True}, "dynamic_img_pad"),
        ({"patch_embed.img_size": (32, "x")}, "img_size"),
        ({"patch_embed.img_size": None}, "img_size"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_computes_otherwise_is_not_served(tmp_path: Path, change: dict[str, Any], odd: str) -> None:
    net = changed(made(VisionTransformer), change)
    with pytest.raises(NotPlain, match=odd):
        rebuilt(STAND_INS.saved(net, tmp_path / "odd.pt"))


@pytest.mark.parametrize(("name", "value"), [("padding", [1 << 30] * 4), ("padding", 1), ("stride", 0), ("stride", 99)])
def test_a_frame_that_is_too_large_is_not_made(tmp_path: Path, name: str, value: Any) -> None:
    net = made(EfficientNet)
    setattr(net.blocks[0][0].aa, name, value)
    with pytest.raises(NotPlain, match="padding"):
        rebuilt(STAND_INS.saved(net, tmp_path / "odd.pt"))
