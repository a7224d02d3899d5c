"""GGUF against the package `gguf`, which writes the files, and against transformers, whose models they are of."""

import json
import struct
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

import score
from score.errors import ArchitectureBroken, LoadError, MalformedFile, NoWeights, TruncatedFile, VersionTooOld
from score.formats import registry
from score.formats._gguf import blocks
from score.formats._gguf.blocks import KINDS
from score.inference import pipeline
from score.settings import Settings

Model = transformers.PreTrainedModel
SIZES: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
SCALED = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: dict[str, Callable[[], Model]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "llama, scaled and tied": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **SIZES, tie_word_embeddings=True, rope_parameters={**SCALED, "original_max_position_embeddings": 32}
        )
    ),
    "llama, with biases": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=32)),
}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def made(name: str) -> Model:
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = (torch.rand_like(parameter) + 0.5).bfloat16().float()
    return model


def in_pairs(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's converter orders them, for queries and keys of Llama."""
    return value.reshape(heads, 2, len(value) // heads // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def write(
    path: Path, model: Model, kind: str = "Q8_0", more: dict[str, Any] | None = None, left_out: str = "", **split: int
) -> None:
    """A model as a GGUF file, as llama.cpp's converter would write it; `more` are further values by key."""
    config = model.config
    name = config.model_type
    writer = GGUFWriter(path, name, **split)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if name == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    for key, value in (more or {}).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, (bool, str)):
            (writer.add_bool if isinstance(value, bool) else writer.add_string)(key, value)
        else:
            (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(key, value)
    if config.rope_parameters["rope_type"] == "llama3":
        size = config.head_dim
        plain = 1 / config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2).float() / size)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    for key, tensor in model.state_dict().items():
        owner, _, last = key.rpartition(".")
        if owner == "lm_head" and config.tie_word_embeddings:
            continue
        value = tensor.float().numpy()
        if owner.startswith("model.layers."):
            number, part = owner.split(".", 3)[2:]
            if name == "llama" and part[-6:] in ("q_proj", "k_proj"):
                heads = config.num_attention_heads if part[-6] == "q" else config.num_key_value_heads
                value = in_pairs(value, heads)
            renamed = f"blk.{number}.{NAMES[part]}.{last}"
        else:
            renamed = f"{WHOLE[owner]}.{last}"
        if renamed == left_out:
            continue
        of = GGMLQuantizationType.F32 if value.ndim == 1 else GGMLQuantizationType[kind]
        if of.name in ("F32", "F16"):
            writer.add_tensor(renamed, value if of.name == "F32" else value.astype(np.float16))
        else:
            writer.add_tensor(renamed, quants.quantize(value, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded(model: Model, kind: str) -> Model:
    """The model with the numbers that its quantised matrices stand for, by the package."""
    of = GGMLQuantizationType[kind]
    other = deepcopy(model)
    for parameter in other.parameters():
        if parameter.ndim > 1 and kind != "F32":
            found = quants.dequantize(quants.quantize(parameter.detach().numpy(), of), of)
            parameter.data = torch.from_numpy(found.copy()).reshape(parameter.shape)
    return other


@pytest.mark.parametrize("number", [number for number, kind in KINDS.items() if kind.elements > 1])
def test_a_block_stands_for_what_the_package_says(number: int) -> None:
    kind = KINDS[number]
    assert (kind.elements, kind.nbytes) == GGML_QUANT_SIZES[GGMLQuantizationType(number)]
    assert kind.name == GGMLQuantizationType(number).name
    content = np.random.default_rng(number).integers(0, 256, (blocks.AT_ONCE + 3, kind.nbytes), np.uint8)
    with np.errstate(all="ignore"):  # any two bytes are a scale, infinity and NaN too
        wanted = quants.dequantize(content, GGMLQuantizationType(number)).reshape(-1)
        np.testing.assert_array_equal(blocks.numbers(content.reshape(-1), number), wanted)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", list(MODELS))
def test_it_computes_what_transformers_does(tmp_path: Path, name: str, kind: str) -> None:
    model = made(name)
    write(tmp_path / "model.gguf", model, kind)
    served = score.load(tmp_path, device="cpu")
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)
    wanted = rounded(model, kind).to(dtype)
    wanted.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq  # .to() rounds it, loading does not
    tokens = torch.randint(0, 48, (2, 70), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, expected = served(input_ids=tokens).logits, wanted(tokens).logits
    # Scaled frequencies are divided in another order, and so differ in the last bit.
    torch.testing.assert_close(found, expected, rtol=0, atol=(1e-6 if kind[0] in "FQ" else 2e-2) * ("scaled" in name))
    assert type(served).__name__ == type(model).__name__


def test_one_precision_is_kept_where_it_holds_all(tmp_path: Path) -> None:
    model = made("qwen2")
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data = parameter.data.bfloat16().float()
    write(tmp_path / "model.gguf", model, "BF16")
    assert score.load(tmp_path).model.norm.weight.dtype == torch.bfloat16
    model.model.norm.weight.data[0] = 1.0001  # which bfloat16 does not hold
    (tmp_path / "model.gguf").unlink()
    write(tmp_path / "model.gguf", model, "BF16")
    assert score.load(tmp_path).model.norm.weight.dtype == torch.float32


def test_a_model_in_several_files_is_one(tmp_path: Path) -> None:
    model = made("llama")
    write(tmp_path / "model.gguf", model, split_max_tensors=8)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 2 and parts[0].name.startswith("model-00001-of-")
    tokens = torch.arange(10)[None]
    with torch.inference_mode():
        found = score.load(tmp_path)(input_ids=tokens).logits
        torch.testing.assert_close(found, rounded(model, "Q8_0")(tokens).logits, rtol=0, atol=0)
    parts[-1].unlink()
    with pytest.raises(LoadError, match=parts[-1].name):
        score.load(tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"llama.attention.sliding_window": 64}, "attention.sliding_window"),
        ({"llama.expert_count": 8}, "mixture"),
        ({"llama.rope.dimension_count": 8}, "rotates a part"),
        ({"llama.rope.scaling.type": "yarn"}, "yarn"),
        ({"llama.vocab_size": 47}, "47"),
        ({"llama.attention.head_count": [4, 4]}, "head_count"),
    ],
)
def test_what_could_be_another_computation_is_refused(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    model = made("llama")
    path = tmp_path / "model.gguf"
    if "llama.attention.head_count" in more:
        other = GGUFWriter(path, "llama")
        for key, value in more.items():
            other.add_array(key, value)
        other.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
        other.write_header_to_file()
        other.write_kv_data_to_file()
        other.write_tensors_to_file()
        other.close()
    else:
        write(path, model, more=more)
    with pytest.raises(ArchitectureBroken, match=said):
        score.load(tmp_path)


def test_a_missing_tensor_is_missed_and_an_unknown_one_named(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", made("llama"), left_out="blk.1.ffn_up.weight")
    with pytest.raises(LoadError, match="1 keys missing"):
        score.load(tmp_path)


def test_another_architecture_is_named_and_its_weights_are_there(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArchitectureBroken, match="mamba"):
        score.load(tmp_path)
    assert score.open_weights(tmp_path)["token_embd.weight"].shape == (4, 32)


def test_an_adapter_of_llama_cpp_is_no_model(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", made("llama"), more={"general.type": "adapter"})
    with pytest.raises(NoWeights, match="adapter"):
        score.load(tmp_path)


def header(*, version: int = 3, tensors: int = 0, values: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + rest


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    text = name.encode()
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return (
        struct.pack("<Q", len(text)) + text + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (header(version=1), VersionTooOld),
        (header(version=3 << 24), VersionTooOld),
        (header(tensors=1 << 60), TruncatedFile),
        (header(values=1 << 60), TruncatedFile),
        (header(values=1, rest=struct.pack("<Q", 1 << 50)), TruncatedFile),
        (header(values=1, rest=struct.pack("<Q1sIIQ", 1, b"a", 9, 4, 1 << 40)), TruncatedFile),
        (header(values=1, rest=struct.pack("<Q1sI", 1, b"a", 77)), MalformedFile),
        (header(tensors=1, rest=tensor("a", (1 << 40,))), TruncatedFile),
        (header(tensors=1, rest=tensor("a", (3,), 2)), MalformedFile),
        (header(tensors=1, rest=tensor("a", (1,), 999)), VersionTooOld),
        (header(tensors=1, rest=tensor("a", (1,) * 5)), MalformedFile),
        (header(tensors=2, rest=tensor("a", (1,)) + tensor("a", (1,)) + bytes(99)), MalformedFile),
        (header(tensors=2, rest=tensor("a", (8,)) + tensor("b", (8,), 0, 4) + bytes(99)), MalformedFile),
        (header(tensors=1, rest=tensor("a", (1 << 62, 1 << 62))), TruncatedFile),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, error: type[LoadError]) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert registry.detect(tmp_path / "model.gguf") == "gguf"
    with pytest.raises(error):
        score.open_weights(tmp_path / "model.gguf")


def test_a_folder_of_transformers_with_gguf_files_alone_is_asked_which(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    for kind in ("Q8_0", "Q4_0"):
        write(tmp_path / f"model-{kind}.gguf", made("llama"), kind)
    with pytest.raises(LoadError, match=r"2 checkpoints|SCORE_CHECKPOINT"):
        score.load(tmp_path)
    assert pipeline.load_model(Settings.load(tmp_path, checkpoint="model-Q4_0.gguf")).report.format == "gguf"


# tokenizers

TEXTS = [
    "Hello world, it's 12345!  \n\n  def f(x):\n\treturn x",
    "naïve Straße café 日本語",
    " lead and trail ",
    "I'LL don't",
]
CORPUS = [__doc__ or "", Path(__file__).read_text(), *TEXTS]


def pairs_of_bytes(pre: str) -> tokenizers.Tokenizer:
    """A tokenizer as a model's authors train it."""
    own = {
        "gpt-2": [],
        "llama-bpe": [pre_tokenizers.Split(tokenizers.Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated")],
        "qwen2": [pre_tokenizers.Split(tokenizers.Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated")],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    }[pre]  # fmt: skip
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm"))
    made.pre_tokenizer = pre_tokenizers.Sequence([*own, last])
    made.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        made.normalizer = normalizers.NFC()
    special = ["<|begin|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    )
    return made


def with_words(path: Path, words: dict[str, Any], count: int) -> Model:
    torch.manual_seed(5)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, "vocab_size": count})).eval()
    write(path, model, more={f"tokenizer.ggml.{key}": value for key, value in words.items()})
    return rounded(model, "Q8_0")


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "smollm"])
def test_texts_are_cut_as_the_tokenizer_that_is_in_it_does(tmp_path: Path, pre: str) -> None:
    tokenizer = pairs_of_bytes(pre)
    said = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(said["vocab"], key=said["vocab"].get)
    words = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "merges": [" ".join(pair) for pair in said["merges"]],
        "token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    model = with_words(tmp_path / "model.gguf", words, len(tokens))
    served = pipeline.load_model(Settings.load(tmp_path))
    assert served.runner is not None and served.runner.task == "text-generation"
    found = transformers.AutoTokenizer.from_pretrained(str(served.beside.tokenizer))
    for text in TEXTS:
        wanted = [0] * (pre == "llama-bpe") + tokenizer.encode(text).ids
        assert found(text)["input_ids"] == wanted
        assert found.decode(wanted, skip_special_tokens=True) == tokenizer.decode(wanted)
    (answer,) = served(
        b'{"inputs": "Hello world", "parameters": {"max_new_tokens": 6, "do_sample": false, "return_full_text": false}}'
    )
    start = torch.tensor([found("Hello world")["input_ids"]])
    made = model.generate(start, max_new_tokens=6, do_sample=False, pad_token_id=1, eos_token_id=1)
    assert answer["generated_text"] == found.decode(made[0, start.shape[1] :], skip_special_tokens=True)


def test_pieces_are_cut_by_their_scores(tmp_path: Path) -> None:
    from transformers.convert_slow_tokenizer import generate_merges

    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator([CORPUS[1]], trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    said = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(said["vocab"], key=said["vocab"].get)
    scores = [-float(number) for number in range(len(tokens))]
    merges = generate_merges(said["vocab"], dict(zip(tokens, scores, strict=True)))
    wanted = tokenizers.Tokenizer(
        models.BPE(said["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    wanted.normalizer = tokenizer.normalizer
    words = {
        "model": "llama", "tokens": tokens, "scores": scores,
        "token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
    }  # fmt: skip
    with_words(tmp_path / "model.gguf", words, len(tokens))
    served = pipeline.load_model(Settings.load(tmp_path))
    found = transformers.AutoTokenizer.from_pretrained(str(served.beside.tokenizer))
    for text in TEXTS:
        assert found(text)["input_ids"] == [1, *wanted.encode(text).ids]
        assert found.decode(found(text)["input_ids"], skip_special_tokens=True) == text


def test_a_tokenizer_that_is_not_known_is_none(tmp_path: Path) -> None:
    words = {"model": "gpt2", "pre": "viking", "tokens": ["a", "b"], "merges": ["a b"]}
    with_words(tmp_path / "model.gguf", words, 48)
    assert pipeline.load_model(Settings.load(tmp_path)).beside.tokenizer is None


def test_the_writer_is_the_version_that_was_tried() -> None:
    assert gguf.GGUF_VERSION == 3
