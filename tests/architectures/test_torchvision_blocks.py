"""Pickled networks of torchvision, by stand-ins under its names: whole, with another head, and with what is not known.

`make test-blocks` holds all of them against torchvision itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import score
from models.resnet import ResNet as Ours
from score.architectures import torch_layers
from score.architectures.torch_layers import NotPlain
from score.formats import registry
from score.weights import select
from tests.architectures.stand_ins import StandIns, normalised


class BasicBlock(nn.Module):
    """As torchvision names its parts."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.stride = stride


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._norm_layer = nn.BatchNorm2d  # a class, which is mentioned and not needed
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        for at, (before, width) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
            blocks = [BasicBlock(before, width, 1 if at == 1 else 2), BasicBlock(width, width, 1)]
            setattr(self, f"layer{at}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(512, 5)


class DenseLayer(nn.Module):
    """Of an old torchvision, whose layers joined what they were given themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.relu1, self.conv1 = nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)
        self.norm2, self.relu2, self.conv2 = nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)
        self.drop_rate = 0.0


class AdaptiveConcatPool2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ap, self.mp = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)


class Flatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.full = False


class Learner:
    """As fastai exports it: the model, and much that is none."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.lr, self.loss_func = model, 1e-3, nn.CrossEntropyLoss()


STAND_INS = StandIns(
    {
        "torchvision.models.resnet": (BasicBlock, ResNet),
        "torchvision.models.densenet": (DenseLayer,),
        "fastai.layers": (AdaptiveConcatPool2d, Flatten),
        "fastai.learner": (Learner,),
    }
)


@pytest.fixture(autouse=True)
def _in_their_packages() -> Iterator[None]:
    """The stand-ins under the libraries' names, for as long as they are pickled."""
    DenseLayer.__name__ = DenseLayer.__qualname__ = "_DenseLayer"
    STAND_INS.put()
    yield
    STAND_INS.forget()


def rebuilt(path: Path) -> nn.Module:
    weights = select.weights_of(registry.open_checkpoint(path))
    assert weights is not None and weights.module is not None
    return torch_layers.rebuild(weights.module).eval()


def made() -> ResNet:
    torch.manual_seed(7)
    net = ResNet()
    normalised(net)
    return net


def as_ours(net: nn.Module) -> nn.Module:
    """The same weights in the class of `models/`, which `make test-torchvision` compares with torchvision's."""
    ours = Ours([2, 2, 2, 2], num_classes=5, bottleneck=False)
    ours.load_state_dict(net.state_dict())
    return ours.eval()


PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_network_is_what_it_was(tmp_path: Path) -> None:
    wanted = as_ours(made())
    path = STAND_INS.saved(made(), tmp_path / "resnet.pth")
    served = score.load(path)
    with torch.inference_mode():
        torch.testing.assert_close(served(PIXELS), wanted(PIXELS))


def test_its_head_may_be_anything_of_torchs(tmp_path: Path) -> None:
    net, whole = made(), as_ours(made())
    head = nn.Sequential(nn.Linear(512, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)).eval()
    net.fc = head  # type: ignore[assignment]
    whole.fc = nn.Identity()
    with torch.inference_mode():
        wanted = head(whole(PIXELS))
        torch.testing.assert_close(rebuilt(STAND_INS.saved(net, tmp_path / "tuned.pth"))(PIXELS), wanted)


def test_pictures_are_taken_as_torchvision_takes_them(tmp_path: Path) -> None:
    from score.inference import pipeline
    from score.settings import Settings

    served = pipeline.load_model(Settings.load(STAND_INS.saved(made(), tmp_path / "resnet.pth")))
    assert served.report.architecture == "torchvision.models.resnet.ResNet"
    assert [list(spec.shape or ()) for spec in served.signature.inputs] == [[None, 3, None, None]]
    assert "0.485" in served.task.card()["images"]


def test_channels_are_those_of_the_first_layer(tmp_path: Path) -> None:
    from score.inference import pipeline
    from score.settings import Settings

    net = made()
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    served = pipeline.load_model(Settings.load(STAND_INS.saved(net, tmp_path / "grey.pth")))
    assert [list(spec.shape or ()) for spec in served.signature.inputs] == [[None, 1, None, None]]
    assert served.task.card()["images"] is None


def test_a_learner_of_fastai_is_its_model(tmp_path: Path) -> None:
    net, ours = made(), as_ours(made())
    body = nn.Sequential(*list(net.children())[:-2])
    head = nn.Sequential(AdaptiveConcatPool2d(), Flatten(), nn.BatchNorm1d(1024), nn.Dropout(0.25), nn.Linear(1024, 4))
    path = STAND_INS.saved(Learner(nn.Sequential(body, head)), tmp_path / "export.pkl")
    with torch.inference_mode():
        x = ours.maxpool(ours.bn1(ours.conv1(PIXELS)).relu())  # type: ignore[operator]
        x = ours.layer4(ours.layer3(ours.layer2(ours.layer1(x))))  # type: ignore[operator]
        x = torch.cat((x.amax((2, 3)), x.mean((2, 3))), 1)
        wanted = head[4](head[2].eval()(x))
        torch.testing.assert_close(score.load(path)(PIXELS), wanted)


@pytest.mark.parametrize("change", ["part", "forward", "layer"])
def test_what_is_not_known_is_not_computed(tmp_path: Path, change: str) -> None:
    net: Any = made()
    if change == "part":
        net.extra = nn.Linear(2, 2)
    elif change == "forward":
        net.forward = print
    else:
        net.layer1 = DenseLayer()
    with pytest.raises(NotPlain, match={"part": "extra", "forward": "forward", "layer": "memory_efficient"}[change]):
        rebuilt(STAND_INS.saved(net, tmp_path / "odd.pth"))
