"""Pickled networks of timm and segmentation-models-pytorch: rebuilt, they compute what the libraries do, to the bit.

`make test-blocks` installs both beside, into build/blocks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.architectures import beside
from tests.architectures.stand_ins import normalised
from tests.architectures.test_torchvision_blocks import rebuilt

pytestmark = pytest.mark.torchvision
CLASSIFIERS = (
    *("resnet18", "resnet50", "resnet50d", "resnext50_32x4d", "seresnet50", "ecaresnet26t", "resnetrs50"),
    *("vit_tiny_patch16_224", "vit_small_patch32_224", "vit_base_patch16_clip_224", "vit_small_patch14_reg4_dinov2"),
    *("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"),
    *("efficientnet_b0", "tf_efficientnet_b0", "efficientnetv2_rw_t", "tf_efficientnetv2_s", "efficientnet_lite0"),
    *("mobilenetv2_100", "mobilenetv3_large_100", "tf_mobilenetv3_small_100", "mnasnet_100", "lcnet_050", "tinynet_e"),
    *("convnext_tiny", "convnext_atto", "convnextv2_atto", "swin_tiny_patch4_window7_224", "densenet121", "vgg11"),
    *("vgg16_bn", "regnetx_004", "regnety_008", "mobilenetv4_conv_small", "mobilenetv4_conv_blur_medium"),
    *("swinv2_tiny_window8_256", "beit_base_patch16_224", "beitv2_base_patch16_224", "vit_base_patch16_siglip_224"),
    *("resnetblur50", "mixer_s32_224"),
)
ENCODERS = (
    *("resnet18", "resnet50", "vgg11_bn", "densenet121", "mobilenet_v2", "efficientnet-b0", "timm-efficientnet-b0"),
    *("se_resnet50", "se_resnext50_32x4d", "tu-resnet18", "timm-regnetx_002", "timm-mobilenetv3_small_100"),
    *("tu-efficientnet_b0", "tu-convnext_atto"),
)
DECODERS = ("UnetPlusPlus", "FPN", "Linknet", "MAnet", "PAN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "UPerNet")
Options = dict[str, Any]
OPTIONS: tuple[tuple[str, Options], ...] = (
    ("Unet", {"decoder_attention_type": "scse", "activation": "sigmoid"}),
    ("Unet", {"aux_params": {"classes": 3, "dropout": 0.2}}),
    ("Unet", {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 8), "in_channels": 1}),
    ("Unet", {"activation": "argmax2d", "decoder_interpolation": "bilinear"}),
    ("UnetPlusPlus", {"encoder_depth": 3, "decoder_channels": (64, 32, 16)}),
    ("FPN", {"decoder_merge_policy": "cat"}),
)


@pytest.fixture
def libraries() -> Iterator[None]:
    with beside.blocks():
        yield


def compared(net: nn.Module, pixels: torch.Tensor, path: Path) -> None:
    normalised(net.eval().requires_grad_(False))  # torch multiplies matrices in another order where it may
    torch.save(net, path)
    with torch.inference_mode():
        wanted = net(pixels)
        beside.forget("torchvision", "timm", "segmentation_models_pytorch")
        torch.testing.assert_close(rebuilt(path)(pixels), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_of_timm(tmp_path: Path, libraries: None, name: str) -> None:
    import timm

    torch.manual_seed(3)
    net = timm.create_model(name, pretrained=False, num_classes=7)
    for place in (getattr(net, "pos_embed", None),):
        if isinstance(place, nn.Parameter):
            nn.init.normal_(place, std=0.1)
    compared(net, torch.rand(2, *net.pretrained_cfg["input_size"]), tmp_path / "net.pt")


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_segmentation_models(tmp_path: Path, libraries: None, name: str) -> None:
    import segmentation_models_pytorch

    torch.manual_seed(3)
    sizes = {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 8)} if "convnext" in name else {}
    net = segmentation_models_pytorch.Unet(name, encoder_weights=None, classes=2, **sizes)
    compared(net, torch.rand(2, 3, 96, 128), tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("name", "options"), [*((each, {}) for each in DECODERS), *OPTIONS], ids=lambda given: str(given)[:40]
)
def test_a_decoder_of_segmentation_models(tmp_path: Path, libraries: None, name: str, options: Options) -> None:
    import segmentation_models_pytorch

    torch.manual_seed(3)
    net = getattr(segmentation_models_pytorch, name)("resnet18", encoder_weights=None, classes=2, **options)
    compared(net, torch.rand(2, options.get("in_channels", 3), 160, 192), tmp_path / "net.pt")
