"""Weights alone: families recognise themselves, the index finds the rest, and what shapes can't tell is not guessed."""

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.cnn import CNN
from models.mlp import MLP
from models.mobilenet_v2 import MobileNetV2
from models.resnet import ResNet
from models.tagger import GRUTagger, LSTMTagger
from models.unet import UNet
from models.vgg import VGG
from score.architectures import fingerprints, hparams, libraries, recognition
from score.errors import (
    ArchitectureAmbiguous,
    ArchitectureBroken,
    ArchitectureNeeded,
    ArchitectureUndecided,
    ArchitectureUnknown,
    ProviderMissing,
)
from score.formats.base import TensorRef
from score.inference.pipeline import load_model
from score.settings import LIBRARIES, Settings
from score.weights.select import Candidate
from tests.cli.test_commands import score

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(14).reshape(2, 7)
GREY = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))

FAMILIES: dict[str, tuple[Any, torch.Tensor]] = {
    "resnet18": (lambda: ResNet([2, 2, 2, 2], False, num_classes=5), IMAGES),
    "resnet50": (lambda: ResNet([3, 4, 6, 3], True, num_classes=5), IMAGES),
    "wide resnet": (lambda: ResNet([1, 1, 1, 1], True, num_classes=5, base=128), IMAGES),
    "resnext": (lambda: ResNet([1, 1, 1, 1], True, num_classes=5, groups=32, base=4), IMAGES),
    "resnet, grey": (lambda: ResNet([1, 1, 1, 1], False, num_classes=5, in_channels=1), IMAGES[:, :1]),
    "vgg11": (lambda: VGG([[8], [16], [16, 16], [32, 32], [32, 32]], False, num_classes=5, hidden=32), IMAGES),
    "vgg16_bn": (lambda: VGG([[8, 8], [16, 16], [16] * 3, [32] * 3, [32] * 3], True, 5, hidden=32), IMAGES),
    "mobilenet_v2": (lambda: MobileNetV2(num_classes=5), IMAGES),
    "mobilenet_v2, narrow": (lambda: MobileNetV2(num_classes=5, width=0.35), IMAGES),
    "unet": (lambda: UNet(3, 2, bilinear=False, width=8), IMAGES),
    "unet, bilinear": (lambda: UNet(3, 2, bilinear=True, width=8), IMAGES),
    "lstm tagger": (lambda: LSTMTagger(20, 8, 16, 4, layers=2, bidirectional=True), TOKENS),
    "gru tagger": (lambda: GRUTagger(20, 8, 16, 4), TOKENS),
}


def filled(module: nn.Module) -> nn.Module:
    """With random values everywhere, normalisation's statistics included, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator) / max(value[0].numel() if value.ndim else 1, 1) ** 0.5
            value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return module.eval()


def served(path: Path, **settings: Any) -> Any:
    return load_model(Settings.load(path, **settings))


def answers(path: Path, x: torch.Tensor, **settings: Any) -> torch.Tensor:
    found = served(path, **settings)
    return torch.as_tensor(found.predict({found.signature.inputs[0].name: x}))


def candidate(shapes: dict[str, tuple[int, ...]]) -> Candidate:
    """Weights of these shapes that are nowhere."""

    def load() -> torch.Tensor:
        raise AssertionError("recognition reads no values")

    refs = {name: TensorRef("float32", shape, 4, object(), load) for name, shape in shapes.items()}
    return Candidate("", refs, "weights")


def shapes_of(build: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in build().state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.net.", "_orig_mod.module."])
@pytest.mark.parametrize("name", ["resnet18", "unet", "gru tagger"])
def test_a_family_is_recognised_under_any_prefix(name: str, prefix: str, tmp_path: Path) -> None:
    build, x = FAMILIES[name]
    model = filled(build())
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "m.pt")
    with torch.inference_mode():
        torch.testing.assert_close(answers(tmp_path, x), model(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_infers_its_sizes(name: str, tmp_path: Path) -> None:
    build, x = FAMILIES[name]
    model = filled(build())
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "m.pt")
    found = served(tmp_path)
    assert found.report.architecture == type(model).__name__
    assert found.report.source == "recognised by keys and shapes"
    with torch.inference_mode():
        given = torch.as_tensor(found.predict({found.signature.inputs[0].name: x}))
        torch.testing.assert_close(given, model(x))


# ---------------------------------------------------------------- what shapes can't tell


def test_an_mlps_activation_is_asked_for_and_never_guessed(tmp_path: Path) -> None:
    reference = filled(nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3)))
    torch.save(reference.state_dict(), tmp_path / "m.pt")
    with pytest.raises(ArchitectureUndecided) as caught:
        served(tmp_path)
    assert "MLP" in caught.value.message
    assert "activation and output" in caught.value.message
    assert "activation: relu, gelu, tanh" in caught.value.detail
    assert "SCORE_ARCHITECTURE_KWARGS" in caught.value.hint
    x = torch.rand(2, 10)
    found = answers(tmp_path, x, architecture_kwargs={"activation": "tanh", "output": "identity"})
    with torch.inference_mode():
        torch.testing.assert_close(found, reference(x))
    named = answers(tmp_path, x, architecture="MLP", architecture_kwargs={"activation": "tanh", "output": "softmax"})
    with torch.inference_mode():
        torch.testing.assert_close(named, reference(x).softmax(1))
    with pytest.raises(ArchitectureUndecided, match="output"):
        served(tmp_path, architecture="MLP", architecture_kwargs={"activation": "tanh"})


def test_a_tutorials_cnn_needs_its_pools_and_gets_its_image_size(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
            self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = functional.max_pool2d(functional.relu(self.conv2(functional.relu(self.conv1(x)))), 2)
            return functional.log_softmax(self.fc2(functional.relu(self.fc1(torch.flatten(x, 1)))), 1)

    reference = filled(Net())
    torch.save(reference.state_dict(), tmp_path / "m.pt")
    with pytest.raises(ArchitectureUndecided, match="activation, pool, padding and output"):
        served(tmp_path)
    given = {"activation": "relu", "pool": [1, 2], "padding": 0, "output": "log_softmax"}
    assert str(served(tmp_path, architecture_kwargs=given).signature.inputs[0]) == "float32[N, 1, 28, 28]"
    with torch.inference_mode():
        torch.testing.assert_close(answers(tmp_path, GREY, architecture_kwargs=given), reference(GREY))
    with pytest.raises(ArchitectureBroken, match="no square image"):
        served(tmp_path, architecture_kwargs=given | {"pool": 99})


@pytest.mark.parametrize("shapes", [
    {}, {"weight": (3,)}, {"a.weight": (3, 4), "b.weight": (3, 5)}, {"conv1.weight": (0, 0, 0, 0), "fc.weight": (1, 1)},
    {"conv1.weight": (1, 1, 1, 1), "fc.weight": (1, 1), "layer1.0.conv2.weight": (0, 0, 0, 0)},
    {"features.0.weight": (1, 1, 1, 1), "classifier.6.weight": (), "classifier.0.weight": ()},
    {"word_embeddings.weight": (1, 1), "hidden2tag.weight": (1, 1), "lstm.weight_hh_l0": (4, 1)},
    {"inc.double_conv.0.weight": (1, 1, 3, 3), "outc.conv.weight": (1, 1),
     "down4.maxpool_conv.1.double_conv.0.weight": ()},
])  # fmt: skip
def test_foreign_shapes_are_no_familys_own(shapes: dict[str, tuple[int, ...]]) -> None:
    for cls in (MLP, CNN, ResNet, VGG, MobileNetV2, UNet, LSTMTagger, GRUTagger):
        found = candidate(shapes)
        try:
            built = recognition.recognise(found)
        except ArchitectureUndecided:
            continue
        assert built is None, cls


# ---------------------------------------------------------------- the same as the reference libraries


def copied(target: nn.Module, source: nn.Module) -> nn.Module:
    """The source's values, in order, in a module that has the same layers in the same order under other names."""
    mine, theirs = target.state_dict(), source.state_dict()
    assert [tuple(value.shape) for value in mine.values()] == [tuple(value.shape) for value in theirs.values()]
    target.load_state_dict(dict(zip(mine, theirs.values(), strict=True)))
    return target.eval()


@pytest.mark.parametrize(("depths", "bottleneck"), [([2, 2, 2, 2], False), ([3, 4, 6, 3], True)])
def test_resnet_is_that_of_transformers(depths: list[int], bottleneck: bool) -> None:
    transformers = pytest.importorskip("transformers")
    ours = filled(ResNet(depths, bottleneck, num_classes=7))
    sizes = [256, 512, 1024, 2048] if bottleneck else [64, 128, 256, 512]
    kind = "bottleneck" if bottleneck else "basic"
    config = transformers.ResNetConfig(depths=depths, hidden_sizes=sizes, layer_type=kind, num_labels=7)
    theirs = transformers.ResNetForImageClassification(config).eval()
    values: dict[str, torch.Tensor] = {}
    for name, value in ours.state_dict().items():
        stage, _, rest = name.partition(".")
        if stage.startswith("layer"):
            at, part, *_ = rest.split(".")
            place = f"resnet.encoder.stages.{int(stage[5:]) - 1}.layers.{at}."
            if part == "downsample":
                kind_of = "convolution" if rest.split(".")[2] == "0" else "normalization"
                values[f"{place}shortcut.{kind_of}.{name.rsplit('.', 1)[1]}"] = value
            else:
                kind_of = "convolution" if part.startswith("conv") else "normalization"
                values[f"{place}layer.{int(part[-1]) - 1}.{kind_of}.{name.rsplit('.', 1)[1]}"] = value
        elif stage == "fc":
            values[f"classifier.1.{rest}"] = value
        else:
            kind_of = "convolution" if stage == "conv1" else "normalization"
            values[f"resnet.embedder.embedder.{kind_of}.{rest}"] = value
    theirs.load_state_dict(values)
    with torch.inference_mode():
        torch.testing.assert_close(ours(IMAGES), theirs(IMAGES).logits, rtol=1e-4, atol=1e-4)


def test_mobilenet_v2_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, num_labels=7)
    theirs = filled(transformers.MobileNetV2ForImageClassification(config))
    ours = copied(MobileNetV2(num_classes=7), theirs)
    with torch.inference_mode():
        torch.testing.assert_close(ours(IMAGES), theirs(IMAGES).logits, rtol=1e-4, atol=1e-4)


def test_vgg_is_the_papers_layers_in_a_row() -> None:
    model = filled(VGG([[8, 8], [16, 16]], True, num_classes=5, hidden=32))
    body: list[nn.Module] = []
    for low, high, last in ((3, 8, False), (8, 8, True), (8, 16, False), (16, 16, True)):
        body += [nn.Conv2d(low, high, 3, padding=1), nn.BatchNorm2d(high), nn.ReLU()]
        body += [nn.MaxPool2d(2)] if last else []
    head = [nn.Linear(16 * 49, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)]
    reference = copied(nn.Sequential(*body, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *head), model)
    with torch.inference_mode():
        torch.testing.assert_close(model(IMAGES), reference(IMAGES))


@pytest.mark.parametrize("bilinear", [False, True])
def test_unet_is_the_papers_formula(bilinear: bool) -> None:
    model = filled(UNet(3, 2, bilinear=bilinear, width=8))
    state = model.state_dict()

    def twice(x: torch.Tensor, place: str) -> torch.Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            x = functional.conv2d(x, state[f"{place}.double_conv.{conv}.weight"], padding=1)
            stats = [
                state[f"{place}.double_conv.{norm}.{kind}"]
                for kind in ("running_mean", "running_var", "weight", "bias")
            ]
            x = functional.relu(functional.batch_norm(x, *stats))
        return x

    def up(x: torch.Tensor, beside: torch.Tensor, at: int) -> torch.Tensor:
        if bilinear:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        else:
            x = functional.conv_transpose2d(x, state[f"up{at}.up.weight"], state[f"up{at}.up.bias"], stride=2)
        return twice(torch.cat([beside, x], 1), f"up{at}.conv")

    with torch.inference_mode():
        levels = [twice(IMAGES, "inc")]
        for at in range(1, 5):
            levels.append(twice(functional.max_pool2d(levels[-1], 2), f"down{at}.maxpool_conv.1"))
        x = levels[4]
        for at in range(1, 5):
            x = up(x, levels[4 - at], at)
        expected = functional.conv2d(x, state["outc.conv.weight"], state["outc.conv.bias"])
        torch.testing.assert_close(model(IMAGES), expected)
        odd = IMAGES[:, :, :37, :50]  # sizes that do not halve evenly come out as they went in
        assert model(odd).shape == (2, 2, 37, 50)


@pytest.mark.parametrize("cls", [LSTMTagger, GRUTagger])
def test_taggers_are_the_tutorials(cls: Any) -> None:
    model = filled(cls(20, 8, 16, 4))
    layer = {LSTMTagger: nn.LSTM, GRUTagger: nn.GRU}[cls](8, 16)
    layer.load_state_dict(model.get_submodule(cls.RECURRENT).state_dict())
    with torch.inference_mode():
        for row in TOKENS:  # the tutorial reads one sentence at a time
            words = functional.embedding(row, model.word_embeddings.weight)
            states, _ = layer(words.view(len(row), 1, -1))
            expected = functional.log_softmax(model.hidden2tag(states.view(len(row), -1)), dim=1)
            torch.testing.assert_close(model(row[None])[0], expected)


# ---------------------------------------------------------------- the index


def test_the_index_says_what_it_was_made_from() -> None:
    assert fingerprints.FILE.stat().st_size < 500_000
    document = json.loads(gzip.decompress(fingerprints.FILE.read_bytes()))
    assert set(document["versions"]) == {"torchvision", "timm", "transformers"}
    packages = {row[0].partition(":")[0] for row in document["architectures"]}
    assert packages == set(document["versions"])
    assert len(document["architectures"]) > 2000


SMALL = "MobileViTForImageClassification"


@pytest.fixture(scope="module")
def small() -> Iterator[nn.Module]:
    transformers = pytest.importorskip("transformers")
    yield filled(getattr(transformers, SMALL)(transformers.MobileViTConfig()))


def test_a_providers_architecture_is_recognised_and_loaded(small: nn.Module, tmp_path: Path) -> None:
    torch.save({f"net.{name}": value for name, value in small.state_dict().items()}, tmp_path / "m.pt")
    found = served(tmp_path, inputs="float32[N, 3, 64, 64]")
    assert found.report.architecture == f"transformers:{SMALL}"
    with torch.inference_mode():
        expected = small(IMAGES).logits
    torch.testing.assert_close(torch.as_tensor(found.predict({"pixel_values": IMAGES})["logits"]), expected)


def test_a_head_of_another_size_is_recognised_too(small: nn.Module) -> None:
    shapes = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    shapes["classifier.weight"], shapes["classifier.bias"] = (7, shapes["classifier.weight"][1]), (7,)
    found = recognition.recognise(candidate(shapes))
    assert found is not None
    assert found.source == "recognised by keys and shapes, all but those of classifier"
    assert found.module.classifier.out_features == 7


def test_a_provider_that_is_not_installed_is_named(small: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.Provider, "installed", False)
    shapes = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    with pytest.raises(ProviderMissing) as caught:
        recognition.recognise(candidate(shapes))
    assert f"transformers:{SMALL}" in caught.value.message
    assert "pip install transformers" in caught.value.hint
    with pytest.raises(ArchitectureUnknown, match="not installed"):
        libraries.builder("timm:resnet50")


def test_a_library_is_installed_beside_the_torch_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    assert libraries.installing("torchvision") == "pip install 'torchvision==0.28.*'"
    assert libraries.installing("timm") == "pip install timm 'torchvision==0.28.*'"
    assert libraries.installing("transformers") == "pip install transformers"


def test_recognition_builds_only_what_it_recognises(small: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    real = recognition.skeleton

    def counted(name: str, *arguments: Any, **named: Any) -> Any:
        built.append(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(recognition, "skeleton", counted)
    shapes = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    recognition.recognise(candidate(shapes))
    assert [name for name in built if ":" in name] == [f"transformers:{SMALL}"]
    assert set(built) <= {f"transformers:{SMALL}", "SimpleModel", "DigitsCNN"}


def test_two_that_compute_differently_are_both_named() -> None:
    transformers = pytest.importorskip("transformers")
    shapes = shapes_of(lambda: transformers.ElectraForMaskedLM(transformers.ElectraConfig()))
    with pytest.raises(ArchitectureAmbiguous) as caught:
        recognition.recognise(candidate(shapes))
    assert "transformers:ElectraForCausalLM" in caught.value.message
    assert "transformers:ElectraForMaskedLM" in caught.value.message
    assert "SCORE_ARCHITECTURE" in caught.value.hint


def test_what_comes_nearest_is_shown_with_its_share(small: nn.Module, tmp_path: Path) -> None:
    changed = copy.deepcopy(small)
    changed.extra = nn.Linear(3, 5)
    torch.save(changed.state_dict(), tmp_path / "m.pt")
    with pytest.raises(ArchitectureNeeded) as caught:
        served(tmp_path)
    assert f"transformers:{SMALL}: about " in caught.value.detail
    shown = score("inspect", tmp_path)
    assert f"transformers:{SMALL}: about " in shown.output
    resnet = ResNet([2, 2, 2, 2], False)
    torch.save({**resnet.state_dict(), "gate": torch.ones(2)}, tmp_path / "m.pt")
    shown = score("inspect", tmp_path)
    assert "ResNet: 122 of 122 keys match (gate is left over)" in shown.output


def test_a_twin_that_computes_differently_is_mentioned(tmp_path: Path) -> None:
    found = recognition.recognise(candidate(shapes_of(lambda: ResNet([3, 4, 6, 3], True))))
    assert found is not None
    assert found.name == "ResNet"
    assert "timm:resnetaa50 and timm:resnetblur50 would fit too" in found.source
    found = recognition.recognise(candidate(shapes_of(lambda: ResNet([3, 4, 6, 3], True, num_classes=7))))
    assert found is not None
    assert found.source == "recognised by keys and shapes"


def test_views_strip_what_all_names_share() -> None:
    views = dict(fingerprints.views({"module.net.a.weight": (1,), "module.net.b.weight": (2,)}))
    assert views == {"": {"net.a.weight": (1,), "net.b.weight": (2,)}, "net.": {"a.weight": (1,), "b.weight": (2,)}}


def test_resemblance_estimates_the_share_in_common() -> None:
    many = {f"layer.{at}.weight": (at + 1, 3) for at in range(400)}
    half = {name: shape for at, (name, shape) in enumerate(many.items()) if at % 2}
    drawn = [fingerprints.sketch(shapes) for shapes in (many, half)]
    assert fingerprints.resemblance(drawn[0], drawn[0]) == 1.0
    assert 0.25 < fingerprints.resemblance(*drawn) < 0.75
    assert fingerprints.resemblance(drawn[0], fingerprints.sketch({"other": (1,)})) < 0.1


# ---------------------------------------------------------------- where else the class may come from

TWO = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self, width: int, depth: int = 1):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        for layer in [self.first, *self.rest]:
            x = layer(x).sin()
        return x * self.scale
"""


def saved_two(folder: Path, extra: dict[str, Any]) -> nn.Module:
    (folder / "net.py").write_text(TWO)
    space: dict[str, Any] = {}
    exec(TWO, space)
    model = filled(space["Two"](6, depth=2))
    torch.save({"state_dict": model.state_dict(), **extra}, folder / "model.ckpt")
    return model


@pytest.mark.parametrize("key", ["hyper_parameters", "model_args", "hparams", "config"])
def test_a_trusted_file_beside_the_checkpoint_and_the_arguments_in_it(key: str, tmp_path: Path) -> None:
    model = saved_two(tmp_path, {key: {"width": 6, "depth": 2, "lr": 0.1}})
    x = torch.rand(3, 4)
    found = served(tmp_path, trust_code=True, inputs="float32[N, 4]")
    assert found.report.architecture == "net.py:Two"
    assert found.report.source == "a trusted file beside the checkpoint"
    with torch.inference_mode():
        torch.testing.assert_close(torch.as_tensor(found.predict({"x": x})), model(x))
    named = served(tmp_path, architecture="net.py:Two", inputs="float32[N, 4]")
    with torch.inference_mode():
        torch.testing.assert_close(torch.as_tensor(named.predict({"x": x})), model(x))


def test_an_untrusted_file_is_not_run_and_says_how_it_could_be(tmp_path: Path) -> None:
    saved_two(tmp_path, {"hyper_parameters": {"width": 6, "depth": 2}})
    (tmp_path / "net.py").write_text(TWO + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ArchitectureNeeded) as caught:
        served(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "net.py beside the checkpoint defines Two" in caught.value.detail
    digest = caught.value.detail.rpartition("SCORE_TRUST_SHA256=")[2].split()[0]
    assert served(tmp_path, trust_sha256=digest, inputs="float32[N, 4]").report.architecture == "net.py:Two"


def test_places_in_a_checkpoint_are_no_arguments() -> None:
    given = {
        "hyper_parameters": {"width": 6, "weights": "https://example.com/x.pt", "model": {"path": "..\\x", "n": 1}}
    }
    assert hparams.arguments(given) == [{"n": 1}, {"width": 6, "model": given["hyper_parameters"]["model"]}]


def test_arguments_of_the_deployment_go_over_those_in_the_checkpoint(tmp_path: Path) -> None:
    saved_two(tmp_path, {"hyper_parameters": {"width": 99, "depth": 2}})
    found = served(tmp_path, architecture="net.py:Two", architecture_kwargs={"width": 6}, inputs="float32[N, 4]")
    assert found.report.tensors == 7
    with pytest.raises(ArchitectureBroken, match="hight"):
        served(tmp_path, architecture="net.py:Two", architecture_kwargs={"width": 6, "hight": 1})


def test_a_providers_name_in_the_setting(small: nn.Module, tmp_path: Path) -> None:
    torch.save(small.state_dict(), tmp_path / "m.pt")
    (tmp_path / "score.toml").write_text(f'architecture = "transformers:{SMALL}"\ninputs = "float32[N, 3, 64, 64]"\n')
    assert served(tmp_path).report.architecture == f"transformers:{SMALL}"
    assert tuple(libraries.PROVIDERS) == LIBRARIES
    found = served(tmp_path, architecture=f"transformers:{SMALL}", inputs="float32[N, 3, 64, 64]")
    assert found.report.source == "SCORE_ARCHITECTURE"
    with pytest.raises(ArchitectureUnknown, match="NoSuchModel"):
        served(tmp_path, architecture="transformers:NoSuchModel")
