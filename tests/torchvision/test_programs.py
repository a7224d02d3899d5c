"""Programs of torchvision, timm and transformers, exported and scripted, are read here as torch reads them, without
trust: every operator that they need is on the list, and every answer is torch's own."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.formats import torch_export, torchscript

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")

CPU = torch.device("cpu")
MOST_PARAMETERS = 30_000_000
PER_FAMILY = 2

Made = tuple[nn.Module, tuple[torch.Tensor, ...]]


def _small(build: Callable[[], nn.Module]) -> bool:
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build().parameters()) <= MOST_PARAMETERS
    except Exception:  # noqa: BLE001  # a constructor that needs real values
        return False


def _torchvision(name: str) -> Made:
    takes = {"weights": None}
    if "segmentation" in torchvision.models.get_model_builder(name).__module__:
        takes["weights_backbone"] = None
    extra = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    side = 299 if "inception" in name else 224
    return torchvision.models.get_model(name, **takes, **extra), (torch.rand(2, 3, side, side),)


def _timm(name: str) -> Made:
    model = timm.create_model(name, pretrained=False)
    return model, (torch.rand(2, *model.default_cfg["input_size"]),)


_TINY = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim"), 37),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **{"vocab_size": 99, "head_dim": 16, "image_size": 32, "patch_size": 8},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False},
}
_TRANSFORMERS = [
    "BertModel",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "RobertaModel",
    "RobertaForSequenceClassification",
    "DistilBertModel",
    "DistilBertForSequenceClassification",
    "ElectraModel",
    "ElectraForSequenceClassification",
    "AlbertModel",
    "AlbertForSequenceClassification",
    "MPNetModel",
    "XLMRobertaModel",
    "CamembertModel",
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPTNeoModel",
    "GPTNeoXForCausalLM",
    "LlamaModel",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "GemmaForCausalLM",
    "OPTForCausalLM",
    "BloomForCausalLM",
    "PhiForCausalLM",
    "T5EncoderModel",
    "ViTModel",
    "ViTForImageClassification",
    "DeiTModel",
    "DeiTForImageClassification",
    "BeitForImageClassification",
    "Dinov2Model",
    "ConvNextForImageClassification",
    "ConvNextV2ForImageClassification",
    "ResNetForImageClassification",
    "SwinForImageClassification",
    "LevitForImageClassification",
    "MobileNetV2ForImageClassification",
    "PoolFormerForImageClassification",
    "RegNetForImageClassification",
    "SegformerForImageClassification",
    "MobileViTForImageClassification",
    "ErnieModel",
    "FNetModel",
    "NystromformerModel",
    "SqueezeBertModel",
    "YosoModel",
    "MegatronBertModel",
    "RoFormerModel",
    "RemBertModel",
    "ConvBertModel",
    "LayoutLMModel",
]


def _transformers(name: str) -> Made:
    cls = getattr(transformers, name)
    known = cls.config_class()
    config = cls.config_class(**{key: value for key, value in _TINY.items() if hasattr(known, key)})
    model = cls(config)
    if cls.main_input_name == "pixel_values":
        side = config.image_size if isinstance(getattr(config, "image_size", None), int) else 64
        return model, (torch.rand(2, 3, side, side),)
    return model, (torch.randint(3, 90, (2, 16)),)


def _architectures() -> list[str]:
    found = [f"torchvision:{name}" for name in torchvision.models.list_models() if not name.startswith("quantized_")]
    families: dict[str, int] = {}
    for name in timm.list_models():
        module = timm.models._registry._model_to_module[name]
        if families.get(module, 0) < PER_FAMILY:
            families[module] = families.get(module, 0) + 1
            found.append(f"timm:{name}")
    return [*found, *(f"transformers:{name}" for name in _TRANSFORMERS)]


_MAKERS: dict[str, Callable[[str], Made]] = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}


def _made(architecture: str) -> Made:
    provider, _, name = architecture.partition(":")
    if not _small(lambda: _MAKERS[provider](name)[0]):
        pytest.skip("too large")
    torch.manual_seed(0)
    try:
        module, inputs = _MAKERS[provider](name)
        return module.eval(), inputs
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"can't be built: {error}")


@pytest.mark.parametrize("architecture", _architectures())
def test_an_exported_program(architecture: str) -> None:
    module, inputs = _made(architecture)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.pt2"
        try:
            program = torch.export.export(module, inputs)
            wanted = program.module()(*inputs)
            torch.export.save(program, path)
        except Exception as error:  # noqa: BLE001
            pytest.skip(f"torch can't export it: {type(error).__name__}: {str(error)[:200]}")
        _compare(torch_export.open(path, "auto"), wanted, inputs)


@pytest.mark.parametrize("architecture", _architectures())
def test_a_scripted_program(architecture: str) -> None:
    module, inputs = _made(architecture)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.pt"
        try:
            script = torch.jit.script(module)
        except Exception:  # noqa: BLE001
            try:
                script = torch.jit.trace(module, inputs, strict=False, check_trace=False)
            except Exception as error:  # noqa: BLE001
                pytest.skip(f"torch can neither script nor trace it: {type(error).__name__}: {str(error)[:200]}")
        try:
            script.save(str(path))
            wanted = torch.jit.load(path)(*inputs)
        except RuntimeError as error:
            pytest.skip(f"torch can't run what it has saved: {str(error).splitlines()[0]}")
        _compare(torchscript.open(path, "auto"), wanted, inputs)


def _compare(checkpoint: Any, wanted: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    assert checkpoint.code == ()
    got = checkpoint.build(CPU)(*inputs)
    for one, other in zip(_tensors(got), _tensors(wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return [tensor for item in vars(value).values() for tensor in _tensors(item)] if hasattr(value, "__dict__") else []
