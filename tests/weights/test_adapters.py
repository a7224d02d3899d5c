"""Adapters on their base model: to the bit what PEFT's `merge_and_unload` gives, wherever the base model lies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file, save_file

import score
from score.errors import AdapterUnsupported, LoadError, NoWeights, SeveralCheckpoints
from score.inference import pipeline
from score.server import discovery
from score.settings import Settings
from score.weights.lora import _matches
from score.weights.opened import open_weights

LLAMA = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BERT = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip


def llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **more}))


def gpt2(**more: Any) -> Any:
    config = transformers.GPT2Config(vocab_size=60, n_positions=32, n_embd=16, n_layer=2, n_head=4, **more)
    return transformers.GPT2LMHeadModel(config)


def bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**BERT))


def bare_bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**BERT))


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4
    )
    return transformers.ViTForImageClassification(config)


def resnet() -> Any:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    return transformers.ResNetForImageClassification(config)


def lora(*targets: str, **more: Any) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=6, target_modules=list(targets), init_lora_weights=False, **more)


Case = tuple[Callable[[], Any], Any]
CASES: dict[str, Case] = {
    "LoRA": (llama, lora("q_proj", "v_proj", task_type="CAUSAL_LM")),
    "LoRA on all": (llama, lora("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
    "rank and alpha patterns": (
        llama,
        lora(
            "q_proj", "v_proj", rank_pattern={"layers.1.self_attn.q_proj": 2, "v_proj": 8},
            alpha_pattern={r"^model\.layers\.0.*q_proj": 3, "v_proj": 20},
        ),
    ),
    "rsLoRA": (llama, lora("q_proj", "o_proj", use_rslora=True)),
    "DoRA": (llama, lora("q_proj", "down_proj", use_dora=True)),
    "DoRA, rsLoRA, patterns": (
        llama, lora("q_proj", "k_proj", use_dora=True, use_rslora=True, rank_pattern={"k_proj": 3})
    ),
    "modules_to_save": (llama, lora("q_proj", modules_to_save=["lm_head"])),
    "embeddings": (llama, lora("embed_tokens", "q_proj")),
    "embeddings and the head": (llama, lora("embed_tokens", "lm_head")),
    "embeddings, DoRA": (llama, lora("embed_tokens", use_dora=True)),
    "embeddings trained as a whole": (llama, lora("q_proj", modules_to_save=["embed_tokens"])),
    "tied embeddings": (lambda: llama(tie_word_embeddings=True), lora("embed_tokens", "q_proj")),
    "tied embeddings, one trained as a whole": (
        lambda: llama(tie_word_embeddings=True), lora("q_proj", modules_to_save=["embed_tokens"])
    ),
    "GPT-2": (gpt2, lora("c_attn", "c_proj", fan_in_fan_out=True, task_type="CAUSAL_LM")),
    "GPT-2, DoRA": (gpt2, lora("c_attn", "c_fc", fan_in_fan_out=True, use_dora=True)),
    "biases": (gpt2, lora("c_attn", fan_in_fan_out=True, bias="all")),
    "biases of the adapted": (bert, lora("query", bias="lora_only")),
    "a bias in LoRA": (bert, lora("query", "value", lora_bias=True)),
    "T5": (t5, lora("q", "v", task_type="SEQ_2_SEQ_LM")),
    "ViT": (vit, lora("q_proj", "v_proj", modules_to_save=["classifier"])),
    "a convolution of patches": (vit, lora("projection", "q_proj")),
    "convolutions": (resnet, lora("convolution")),
    "convolutions, DoRA": (resnet, lora("convolution", use_dora=True)),
    "IA3": (llama, IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"],
                             init_ia3_weights=False)),
    "IA3 with biases": (bert, IA3Config(target_modules=["key", "value"], feedforward_modules=[],
                                        init_ia3_weights=False)),
    "IA3, GPT-2": (gpt2, IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"],
                                   fan_in_fan_out=True, init_ia3_weights=False)),
}  # fmt: skip


def made(folder: Path, case: Case, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A base model and an adapter in a folder; what PEFT merges them to."""
    torch.manual_seed(7)
    build, config = case
    base = build().to(dtype).eval()
    base.save_pretrained(folder / "base")
    adapted = peft.get_peft_model(base, config)
    for parameter in adapted.parameters():  # what has been trained differs from what was there
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    adapted.save_pretrained(folder / "adapter")
    again = type(base).from_pretrained(folder / "base")
    merged = peft.PeftModel.from_pretrained(again, folder / "adapter").merge_and_unload()
    return dict(merged.state_dict())


def the_same(found: Any, state: dict[str, torch.Tensor]) -> None:
    have = found.state_dict()
    assert set(have) == set(state)
    for name, tensor in state.items():
        assert have[name].dtype == tensor.dtype, name
        assert torch.equal(have[name], tensor), name


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_that_peft_merges(name: str, tmp_path: Path) -> None:
    state = made(tmp_path, CASES[name])
    the_same(score.load(tmp_path), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["LoRA", "DoRA", "embeddings", "IA3", "modules_to_save"])
def test_so_they_are_in_half_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = made(tmp_path, CASES[name], dtype)
    the_same(score.load(tmp_path), state)


def test_the_weights_are_mapped_but_for_those_that_are_adapted(tmp_path: Path) -> None:
    state = made(tmp_path, CASES["LoRA"])
    weights = score.open_weights(tmp_path)
    assert set(state) == set(weights)
    for name in state:
        assert torch.equal(weights[name], state[name])
    plain = open_weights(Settings.load(tmp_path / "base")).weights
    assert plain is not None
    assert weights.refs["model.norm.weight"].nbytes == plain.tensors["model.norm.weight"].nbytes


def test_the_result_is_written_as_one_model(tmp_path: Path) -> None:
    from score.cli import conversion

    state = made(tmp_path, CASES["rank and alpha patterns"])
    conversion.to_safetensors(Settings.load(tmp_path), tmp_path / "merged.safetensors")
    written = load_file(tmp_path / "merged.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in state.items())


def test_a_classifier_has_the_class_and_the_labels_that_its_adapter_was_trained_with(tmp_path: Path) -> None:
    torch.manual_seed(3)
    bare_bert().save_pretrained(tmp_path / "base")
    base = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=5)
    adapted = peft.get_peft_model(base, lora("query", "value", task_type="SEQ_CLS"))
    adapted.save_pretrained(tmp_path / "adapter")
    found = score.load(tmp_path)
    assert type(found).__name__ == "BertForSequenceClassification"
    the_same(found, dict(adapted.merge_and_unload().state_dict()))


def test_a_layer_that_neither_of_the_two_holds_is_not_filled_in(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "base")  # without the layer that a classifier has between
    base = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, lora("query", task_type="SEQ_CLS")).save_pretrained(tmp_path / "adapter")
    with pytest.raises(LoadError, match="2 keys missing") as caught:
        score.load(tmp_path)
    assert "pooler" in caught.value.detail


def test_words_that_were_added_have_their_rows(tmp_path: Path) -> None:
    torch.manual_seed(3)
    base = llama()
    base.save_pretrained(tmp_path / "base")
    base.resize_token_embeddings(66)
    adapted = peft.get_peft_model(base, lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]))
    adapted.save_pretrained(tmp_path / "adapter")
    the_same(score.load(tmp_path), dict(adapted.merge_and_unload().state_dict()))


def test_words_that_were_added_to_an_adapted_embedding(tmp_path: Path) -> None:
    torch.manual_seed(3)
    base = llama()
    base.save_pretrained(tmp_path / "base")
    base.resize_token_embeddings(66)
    adapted = peft.get_peft_model(base, lora("embed_tokens", "lm_head"))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    the_same(score.load(tmp_path), dict(adapted.merge_and_unload().state_dict()))


def test_weights_of_torch_save_are_an_adapters_too(tmp_path: Path) -> None:
    state = made(tmp_path, CASES["LoRA"])
    torch.save(
        load_file(tmp_path / "adapter" / "adapter_model.safetensors"), tmp_path / "adapter" / "adapter_model.bin"
    )
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    the_same(score.load(tmp_path), state)


# where the base model is


def _config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ("org/llama-tiny", "llama-tiny"),
        ("org/llama-tiny", "org/llama-tiny"),
        ("org/llama-tiny", "org--llama-tiny"),
        ("org/llama-tiny", "adapter/llama-tiny"),
        ("org/llama-tiny", "models--org--llama-tiny/snapshots/0123abcd"),
        ("/home/me/work/llama-tiny", "llama-tiny"),
        ("./llama-tiny", "llama-tiny"),
        (None, "anything"),
        ("org/another", "anything"),
    ],
)
def test_it_is_found_where_people_put_it(named: str | None, place: str, tmp_path: Path) -> None:
    state = made(tmp_path, CASES["LoRA"])
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(tmp_path / "base", tmp_path / place)
    _config(tmp_path / "adapter", base_model_name_or_path=named)
    the_same(score.load(tmp_path), state)


def test_of_several_the_one_that_the_adapter_names_is_it(tmp_path: Path) -> None:
    state = made(tmp_path, CASES["LoRA"])
    shutil.copytree(tmp_path / "base", tmp_path / "other")
    _config(tmp_path / "adapter", base_model_name_or_path="org/base")
    the_same(score.load(tmp_path, checkpoint="adapter"), state)
    _config(tmp_path / "adapter", base_model_name_or_path="org/neither")
    with pytest.raises(SeveralCheckpoints, match="org/neither") as caught:
        score.load(tmp_path, checkpoint="adapter")
    assert {"base": "other"} in list(caught.value.choices)
    the_same(score.load(tmp_path, checkpoint="adapter", base="base"), state)


def test_it_may_be_anywhere_where_a_setting_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    state = made(tmp_path / "model", CASES["LoRA"])
    shutil.move(tmp_path / "model" / "base", tmp_path / "elsewhere")
    with pytest.raises(NoWeights, match="adapter") as caught:
        score.load(tmp_path / "model")
    assert "SCORE_BASE" in caught.value.hint
    the_same(score.load(tmp_path / "model", base=tmp_path / "elsewhere"), state)
    monkeypatch.chdir(tmp_path)
    the_same(score.load("model", base="elsewhere"), state)
    with pytest.raises(LoadError, match="SCORE_BASE=nowhere"):
        score.load(tmp_path / "model", base="nowhere")


def test_a_file_does_not_get_to_say_where(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    made(tmp_path / "model", CASES["LoRA"])
    shutil.move(tmp_path / "model" / "base", tmp_path / "outside")
    for named in (str(tmp_path / "outside"), "../outside", "../../outside"):
        _config(tmp_path / "model" / "adapter", base_model_name_or_path=named)
        with pytest.raises(NoWeights, match="adapter"):
            score.load(tmp_path / "model")
    (tmp_path / "model" / "outside").symlink_to(tmp_path / "outside")
    with pytest.raises(NoWeights, match="adapter"):
        score.load(tmp_path / "model" / "adapter")
    (tmp_path / "model" / "score.toml").write_text('base = "/"\n')
    with pytest.raises(LoadError, match="base"):
        Settings.load(tmp_path / "model")


def test_both_in_an_archive(tmp_path: Path) -> None:
    state = made(tmp_path, CASES["LoRA"])
    shutil.make_archive(str(tmp_path / "model" / "both"), "gztar", tmp_path)
    the_same(score.load(tmp_path / "model"), state)


def test_a_base_model_in_the_adapters_own_folder(tmp_path: Path) -> None:
    state = made(tmp_path, CASES["LoRA"])
    for file in (tmp_path / "adapter").iterdir():
        shutil.copy(file, tmp_path / "base" / file.name)
    shutil.rmtree(tmp_path / "adapter")
    the_same(score.load(tmp_path), state)


def test_several_adapters_are_models_by_their_names(tmp_path: Path) -> None:
    state = made(tmp_path, CASES["LoRA"])
    shutil.copytree(tmp_path / "adapter", tmp_path / "second")
    tensors = load_file(tmp_path / "second" / "adapter_model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, tmp_path / "second" / "adapter_model.safetensors")
    _config(tmp_path / "second", base_model_name_or_path="base")
    settings = Settings.load(tmp_path)
    with pytest.raises(SeveralCheckpoints):
        pipeline.load_model(settings)
    found = discovery.chosen(settings)
    assert set(found) == {"base", "adapter", "second"}
    served = {name: pipeline.load_model(discovery.settings_of(name, path, settings)) for name, path in found.items()}
    the_same(served["adapter"].module, state)
    key = "model.layers.0.self_attn.q_proj.weight"
    weights = {name: model.module.state_dict()[key] for name, model in served.items()}
    one, two = weights["adapter"] - weights["base"], weights["second"] - weights["base"]
    assert torch.allclose(two, one * 4, atol=1e-6)


# what is not known is refused


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"use_qalora": True}, "use_qalora"),
        ({"some_new_way": {"a": 1}}, "some_new_way"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"peft_type": "LOKR"}, "LOKR"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"use_dora": True}, "not those that its configuration says"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "pattern"),
        ({"alpha_pattern": {"a**": 3}}, "pattern"),
        ({"alpha_pattern": {".*" * 9: 3}}, "pattern"),
    ],
)
def test_what_is_not_known_to_be_merged_so_is_refused(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    made(tmp_path, CASES["LoRA"])
    _config(tmp_path / "adapter", **values)
    with pytest.raises(AdapterUnsupported, match=says):
        score.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda name, tensor: (name.replace("layers.1", "layers.7"), tensor), "no such layer"),
        (lambda name, tensor: (name.replace("self_attn.q_proj", "input_layernorm"), tensor), "not merged here"),
        (lambda name, tensor: (name.replace("lora_B", "lora_C"), tensor), "no such layer|lora_A"),
        (lambda name, tensor: (name, tensor[:, :3] if "lora_A" in name else tensor), "shapes"),
        (lambda name, tensor: (name, tensor[:2] if "lora_A" in name else tensor), "no common rank"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(change: Any, says: str, tmp_path: Path) -> None:
    made(tmp_path, CASES["LoRA"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = [change(*item) for item in load_file(path).items()]
    save_file({name: tensor.contiguous() for name, tensor in tensors}, path)
    with pytest.raises(AdapterUnsupported, match=says):
        score.load(tmp_path)


def test_patterns_are_matched_as_peft_matches_them() -> None:
    from peft.utils.other import get_pattern_key

    layers = ["model.layers.0.self_attn.q_proj", "model.layers.10.mlp.down_proj", "q_proj", "xq_proj"]
    for pattern in ("q_proj", "self_attn.q_proj", r"^model\.layers\.0.*q_proj", r"model.layers.\d+.mlp.down_proj", "0"):
        for layer in layers:
            theirs = get_pattern_key([pattern], f"{layer}") == pattern and (pattern != layer or pattern == "q_proj")
            assert _matches(pattern, layer) == theirs
