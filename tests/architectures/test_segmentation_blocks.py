"""Pickled networks of segmentation-models-pytorch, by stand-ins under its names, which compute what is expected.

`make test-blocks` holds 29 of them against the library itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from score.architectures.torch_layers import NotPlain
from tests.architectures.stand_ins import StandIns, changed, normalised
from tests.architectures.test_torchvision_blocks import rebuilt


class BasicBlock(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(before, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.downsample = nn.Conv2d(before, width, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.downsample(x)).relu()  # type: ignore[no-any-return]


class ResNetEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._depth, self._output_stride = 3, 32
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.maxpool, self.layer1 = nn.Identity(), nn.Sequential(BasicBlock(4, 6))
        self.layer2 = nn.Sequential(BasicBlock(6, 8))
        self.layer3, self.layer4 = nn.Sequential(BasicBlock(8, 8)), nn.Sequential(BasicBlock(8, 8))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = self.bn1(self.conv1(x)).relu()
        second = self.layer1(first)
        return [x, first, second, self.layer2(second)]


class Conv2dReLU(nn.Sequential):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class DecoderBlock(nn.Module):
    """As until 0.3, without a mode of interpolation."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.attention1 = Conv2dReLU(before, after), Attention()
        self.conv2, self.attention2 = Conv2dReLU(after, after), Attention()


class UnetDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.center = nn.Identity()
        self.blocks = nn.ModuleList([DecoderBlock(8 + 6, 6), DecoderBlock(6 + 4, 4), DecoderBlock(4, 2)])

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        x = features[3]
        for block, skip, like in zip(self.blocks, (features[2], features[1], None), features[2::-1], strict=True):
            x = F.interpolate(x, size=like.shape[2:], mode="nearest")
            x = x if skip is None else torch.cat((x, skip), 1)
            x = block.conv2(block.conv1(x))  # type: ignore[operator, union-attr]
        return x


class FPNBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.skip_conv, self.interpolation_mode = nn.Conv2d(channels, 8, 1), "nearest"


class MergeBlock(nn.Module):
    policy = "add"

    def __init__(self) -> None:
        super().__init__()
        self.policy = "add"


class FPNDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p5, self.p4, self.p3, self.p2 = nn.Conv2d(8, 8, 1), FPNBlock(6), FPNBlock(4), FPNBlock(3)
        self.seg_blocks = nn.ModuleList([nn.Upsample(scale_factor=2**at) for at in (3, 2, 1, 0)])
        self.merge, self.dropout = MergeBlock(), nn.Dropout2d(0.2)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        found = [self.p5(features[3])]
        for part, skip in ((self.p4, features[2]), (self.p3, features[1]), (self.p2, features[0])):
            found.append(F.interpolate(found[-1], scale_factor=2.0) + part.skip_conv(skip))
        return sum(F.interpolate(each, size=features[0].shape[2:]) for each in found)  # type: ignore[return-value]


class Activation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sigmoid()


class SegmentationHead(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 2, 3, padding=1), nn.Identity(), Activation())


class ClassificationHead(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3))


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = ResNetEncoder(), UnetDecoder(), SegmentationHead(2)
        self.classification_head = None
        self.name = "u-resnet"

    def forward(self, x: torch.Tensor) -> Any:
        features = self.encoder(x)
        masks = self.segmentation_head(self.decoder(features))
        return masks if self.classification_head is None else (masks, self.classification_head(features[-1]))


class FPN(Unet):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.segmentation_head = FPNDecoder(), SegmentationHead(8)  # type: ignore[assignment]


PACKAGE = "segmentation_models_pytorch"
STAND_INS = StandIns(
    {
        "torchvision.models.resnet": (BasicBlock,),
        f"{PACKAGE}.encoders.resnet": (ResNetEncoder,),
        f"{PACKAGE}.unet.decoder": (UnetDecoder, DecoderBlock),  # where older versions have them
        f"{PACKAGE}.unet.model": (Unet,),
        f"{PACKAGE}.decoders.fpn.decoder": (FPNDecoder, FPNBlock, MergeBlock),
        f"{PACKAGE}.decoders.fpn.model": (FPN,),
        f"{PACKAGE}.base.heads": (SegmentationHead, ClassificationHead),
        f"{PACKAGE}.base.modules": (Conv2dReLU, Attention, Activation),
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


@pytest.mark.parametrize(("kind", "sides"), [(Unet, (32, 48)), (Unet, (33, 50)), (FPN, (32, 48))])
def test_a_network_is_what_it_was(tmp_path: Path, kind: type[nn.Module], sides: tuple[int, int]) -> None:
    net, pixels = made(kind), torch.rand(2, 3, *sides)
    with torch.inference_mode():
        wanted = net(pixels)
        torch.testing.assert_close(rebuilt(STAND_INS.saved(net, tmp_path / "net.pt"))(pixels), wanted)


def test_classes_come_beside_the_masks(tmp_path: Path) -> None:
    net, pixels = made(Unet), torch.rand(2, 3, 16, 16)
    net.classification_head = ClassificationHead().eval()
    with torch.inference_mode():
        wanted = net(pixels)
        torch.testing.assert_close(rebuilt(STAND_INS.saved(net, tmp_path / "net.pt"))(pixels), wanted)


def test_a_size_that_the_library_refuses_is_refused(tmp_path: Path) -> None:
    served = rebuilt(STAND_INS.saved(made(FPN), tmp_path / "fpn.pt"))
    with pytest.raises(ValueError, match="multiples of 8"):
        served(torch.rand(1, 3, 30, 32))


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        ({"encoder._depth": 9}, "_depth"),
        ({"encoder._depth": "3"}, "_depth"),
        ({"encoder": nn.Identity()}, "encoder"),
        ({"decoder.blocks.0.interpolation_mode": "sideways"}, "interpolation_mode"),
        ({"decoder.extra": nn.Identity()}, "extra"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_computes_otherwise_is_not_served(tmp_path: Path, change: dict[str, Any], odd: str) -> None:
    net = changed(made(Unet), change)
    with pytest.raises(NotPlain, match=odd):
        rebuilt(STAND_INS.saved(net, tmp_path / "odd.pt"))
