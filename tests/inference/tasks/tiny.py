"""Tiny random models of transformers, saved with a tokenizer or a processor made here: one folder for each task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_TEXT = """the weights are never unavailable nothing from a file runs an answer is right or it is error who wrote this
paris is in france where lives anna she works for contoso and likes long walks when it does not rain good bad fine day
"""
WORDS = _TEXT.split()
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
    "max_position_embeddings": 64, "initializer_range": 0.5,
}  # fmt: skip


def tokenizer(folder: Path, **special: str) -> Any:
    """A fast tokenizer of words, as BERT's, saved in a folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = _SPECIAL + list(dict.fromkeys(WORDS)) + [".", ",", "?", "!"] + list("abcdefghijklmnopqrstuvwxyz")
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    }  # fmt: skip
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=64, **names | special,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    found.save_pretrained(folder)
    return found


def _bert(name: str, **more: Any) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        import transformers

        words = tokenizer(folder)
        config = transformers.BertConfig(vocab_size=len(words), **_SMALL, **more)
        _saved(getattr(transformers, name)(config), folder)

    return save


def _labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: at for at, name in enumerate(names)}}


def _gpt2(folder: Path) -> None:
    import transformers

    words = tokenizer(folder, eos_token="[SEP]")
    words.model_input_names = ["input_ids", "attention_mask"]
    words.save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=3,
        pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    model.generation_config.update(max_new_tokens=7, repetition_penalty=3.0, pad_token_id=0)
    _saved(model, folder)


def _t5(folder: Path) -> None:
    import transformers

    words = tokenizer(folder)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=3,
    )  # fmt: skip
    _saved(transformers.T5ForConditionalGeneration(config), folder)


def _pictures(name: str, config: str, **more: Any) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        import transformers

        transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
        made = getattr(transformers, config)(image_size=32, patch_size=8, **_SMALL, **more)
        _saved(getattr(transformers, name)(made), folder)

    return save


def _segformer(folder: Path) -> None:
    import transformers

    transformers.SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, decoder_hidden_size=16, num_attention_heads=[1, 1, 2, 4],
        **_labels("sky", "road", "tree"),
    )  # fmt: skip
    _saved(transformers.SegformerForSemanticSegmentation(config), folder)


def _yolos(folder: Path) -> None:
    import transformers

    transformers.YolosImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    config = transformers.YolosConfig(
        image_size=[64, 64], patch_size=16, num_detection_tokens=5, **_SMALL, **_labels("cat", "dog")
    )
    _saved(transformers.YolosForObjectDetection(config), folder)


def _clip(folder: Path) -> None:
    import transformers

    words = tokenizer(folder)
    words.model_input_names = ["input_ids", "attention_mask"]
    words.save_pretrained(folder)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    config = transformers.CLIPConfig(
        text_config={"vocab_size": len(words), "max_position_embeddings": 64, "eos_token_id": 3, **sizes},
        vision_config={"image_size": 32, "patch_size": 8, **sizes},
        projection_dim=16,
    )
    _saved(transformers.CLIPModel(config), folder)


_WAVES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37, "conv_dim": [16] * 3,
    "conv_kernel": [10, 8, 4], "conv_stride": [8, 8, 4], "num_feat_extract_layers": 3, "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "initializer_range": 0.5,
}  # fmt: skip


def _wav2vec2(name: str, **more: Any) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        import transformers

        transformers.Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)
        if name.endswith("CTC"):
            letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
            (folder / "vocab.json").write_text(json.dumps({letter: at for at, letter in enumerate(letters)}))
            transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
            more["vocab_size"] = len(letters)
        _saved(getattr(transformers, name)(transformers.Wav2Vec2Config(**_WAVES, **more)), folder)

    return save


def _saved(model: Any, folder: Path) -> None:
    model.eval().save_pretrained(folder)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "text-classification": _bert("BertForSequenceClassification", **_labels("bad", "good", "fine")),
    "token-classification": _bert("BertForTokenClassification", **_labels("O", "B-PER", "I-PER", "B-LOC")),
    "question-answering": _bert("BertForQuestionAnswering"),
    "fill-mask": _bert("BertForMaskedLM"),
    "feature-extraction": _bert("BertModel"),
    "zero-shot-classification": _bert(
        "BertForSequenceClassification", **_labels("contradiction", "neutral", "entailment")
    ),
    "text-generation": _gpt2,
    "text2text-generation": _t5,
    "image-classification": _pictures("ViTForImageClassification", "ViTConfig", **_labels("cat", "dog", "cow")),
    "image-segmentation": _segformer,
    "object-detection": _yolos,
    "zero-shot-image-classification": _clip,
    "automatic-speech-recognition": _wav2vec2("Wav2Vec2ForCTC"),
    "audio-classification": _wav2vec2("Wav2Vec2ForSequenceClassification", **_labels("yes", "no")),
}


def sentences(folder: Path) -> Path:
    """A folder as sentence-transformers writes it: mean pooling behind a text model, with two prompts."""
    made("feature-extraction", folder)
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    prompts = {"prompts": {"query": "who ", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def ranking(folder: Path) -> Path:
    """A cross-encoder: one number for a pair of texts, and what is applied to it."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    _bert("BertForSequenceClassification", num_labels=1)(folder)
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.0"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def made(task: str, folder: Path) -> Path:
    """The folder of a task's model."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    FOLDERS[task](folder)
    return folder
