"""Adapters beside the layers of a base model that several share: as PEFT computes with one that is not merged."""

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from score.inference import pipeline
from score.inference.predictor import Predictor
from score.server import discovery
from score.settings import Settings
from tests.weights.test_adapters import CASES, _config, gpt2, llama, lora, made

BESIDE = ("LoRA", "LoRA on all", "rank and alpha patterns", "rsLoRA", "modules_to_save", "GPT-2", "biases", "T5", "ViT")
PARTLY = ("DoRA", "embeddings and the head", "tied embeddings", "a bias in LoRA", "IA3")  # or not at all


def loaded(folder: Path, name: str) -> Predictor:
    found = Settings.load(folder)
    path = discovery.chosen(found)[name]
    return pipeline.load_model(discovery.settings_of(name, path, found), among_others=True)


def given(module: Any) -> dict[str, torch.Tensor]:
    if module.main_input_name == "pixel_values":
        return {"pixel_values": torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)}
    tokens = {"input_ids": torch.tensor([[1, 5, 9, 2]])}
    return tokens | ({"decoder_input_ids": torch.tensor([[0, 3]])} if module.config.is_encoder_decoder else {})


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(**given(module)).logits  # type: ignore[no-any-return]


def of_peft(folder: Path, base: Any) -> torch.Tensor:
    again = type(base).from_pretrained(folder / "base")
    return logits(peft.PeftModel.from_pretrained(again, folder / "adapter").eval())


@pytest.mark.parametrize("name", [*BESIDE, *PARTLY])
def test_an_answer_is_the_one_of_the_adapter_that_is_not_merged(name: str, tmp_path: Path) -> None:
    made(tmp_path, CASES[name])
    served = loaded(tmp_path, "adapter")
    beside = served.report.metadata.get("adapter_beside", 0)
    assert bool(beside) == (name in (*BESIDE, "embeddings and the head", "tied embeddings", "embeddings"))
    found = logits(served.module)
    merged = logits(pipeline.load_model(Settings.load(tmp_path, checkpoint="adapter")).module)
    torch.testing.assert_close(found, merged, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, logits(loaded(tmp_path, "base").module), atol=1e-3)
    if name != "tied embeddings":  # which PEFT leaves apart for as long as it does not merge
        torch.testing.assert_close(found, of_peft(tmp_path, served.module), rtol=1e-5, atol=1e-6)


def test_so_it_is_in_half_precision(tmp_path: Path) -> None:
    made(tmp_path, CASES["LoRA"], torch.bfloat16)
    served = loaded(tmp_path, "adapter")
    found = logits(served.module)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, of_peft(tmp_path, served.module).to(found.dtype))


@pytest.mark.parametrize("tied", [False, True])
def test_the_base_model_is_there_once(tied: bool, tmp_path: Path) -> None:
    made(tmp_path, (lambda: llama(tie_word_embeddings=tied), lora("q_proj", "v_proj")))
    shutil.copytree(tmp_path / "adapter", tmp_path / "second")
    file = tmp_path / "second" / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file)
    _config(tmp_path / "second", base_model_name_or_path="base")
    shared = {name: loaded(tmp_path, name) for name in ("base", "adapter", "second")}
    first = dict(shared["base"].module.named_parameters(remove_duplicate=False))
    for served in shared.values():
        for name, parameter in served.module.named_parameters(remove_duplicate=False):
            assert parameter is first[name]
    answers = {name: logits(served.module) for name, served in shared.items()}
    one, two = answers["adapter"] - answers["base"], answers["second"] - answers["base"]
    assert one.abs().max() > 1e-3
    assert (two - one).abs().max() > 1e-3
    assert shared["adapter"].report.lines()[4] == "with the adapter adapter (LORA) beside 4 layers"


def test_a_base_model_that_was_written_again_is_another(tmp_path: Path) -> None:
    made(tmp_path, (llama, lora("q_proj")))
    before = loaded(tmp_path, "adapter")
    again = llama()
    for parameter in again.parameters():
        parameter.data *= 2
    again.save_pretrained(tmp_path / "base")
    after = loaded(tmp_path, "adapter")
    name = "model.norm.weight"
    assert torch.equal(after.module.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(after.module.get_parameter(name), before.module.get_parameter(name))


def test_a_setting_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = made(tmp_path, (gpt2, lora("c_attn", fan_in_fan_out=True)))
    key = "transformer.h.0.attn.c_attn.weight"
    only = pipeline.load_model(Settings.load(tmp_path, checkpoint="adapter"))
    assert torch.equal(only.module.get_parameter(key), state[key])
    beside = pipeline.load_model(Settings.load(tmp_path, checkpoint="adapter", adapters="beside"))
    assert not torch.equal(beside.module.get_parameter(key), state[key])
    torch.testing.assert_close(logits(beside.module), logits(only.module), rtol=1e-4, atol=1e-5)
    monkeypatch.setenv("SCORE_ADAPTERS", "merged")
    assert torch.equal(loaded(tmp_path, "adapter").module.get_parameter(key), state[key])
