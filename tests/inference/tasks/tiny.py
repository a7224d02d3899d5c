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


def _whisper(folder: Path) -> None:
    """Recordings of two seconds, and a vocabulary of bytes and of Whisper's own marks."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    marks = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|translate|>", "<|transcribe|>",
             "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
    times = [f"<|{at * 0.02:.2f}|>" for at in range(101)]
    vocabulary = {letter: at for at, letter in enumerate(sorted(ByteLevel.alphabet()))}
    words = transformers.WhisperTokenizer(vocab=vocabulary | {"<|endoftext|>": 256}, merges=[])
    words.add_tokens([transformers.AddedToken(mark, special=True) for mark in marks[1:]])
    words.add_tokens([transformers.AddedToken(mark, special=False) for mark in times])
    sounds = transformers.WhisperFeatureExtractor(chunk_length=2)
    transformers.WhisperProcessor(sounds, words).save_pretrained(folder)
    at = {mark: 256 + number for number, mark in enumerate(marks)}
    start = at["<|startoftranscript|>"]
    config = transformers.WhisperConfig(
        vocab_size=len(words), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=37, decoder_ffn_dim=37, max_source_positions=100,
        max_target_positions=64, decoder_start_token_id=start, eos_token_id=256, bos_token_id=256, pad_token_id=256,
        init_std=0.5,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        no_timestamps_token_id=at["<|notimestamps|>"], is_multilingual=True, max_length=24,
        max_initial_timestamp_index=50,
        lang_to_id={"<|en|>": at["<|en|>"], "<|fr|>": at["<|fr|>"]}, return_timestamps=False,
        task_to_id={"translate": at["<|translate|>"], "transcribe": at["<|transcribe|>"]},
        suppress_tokens=[at[mark] for mark in marks[1:9]], begin_suppress_tokens=[256],
        prev_sot_token_id=at["<|startofprev|>"], decoder_start_token_id=start, bos_token_id=256, eos_token_id=256,
        pad_token_id=256,
    )  # fmt: skip
    _saved(model, folder)


def _dpt(folder: Path) -> None:
    import transformers

    transformers.DPTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    config = transformers.DPTConfig(
        image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16, is_hybrid=False, **_SMALL | {"num_hidden_layers": 4, "initializer_range": 0.1},
    )  # fmt: skip
    _saved(transformers.DPTForDepthEstimation(config), folder)


def _captions(folder: Path) -> None:
    """A vision encoder whose decoder writes a caption."""
    import transformers

    words = tokenizer(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    sees = transformers.ViTConfig(image_size=32, patch_size=8, **_SMALL)
    writes = transformers.GPT2Config(
        vocab_size=len(words), n_embd=32, n_layer=2, n_head=4, n_positions=64, add_cross_attention=True,
        initializer_range=0.5,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(sees, writes)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    model = transformers.VisionEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3, max_new_tokens=6)
    _saved(model, folder)


def _pieces(folder: Path, name: str) -> list[str]:
    """A SentencePiece model of the words here; its pieces."""
    import sentencepiece

    (folder / "text").write_text(_TEXT * 4)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "made"), vocab_size=60, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    (folder / "text").unlink()
    (folder / "made.vocab").unlink()
    (folder / "made.model").rename(folder / name)
    found = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
    return [found.id_to_piece(at) for at in range(found.get_piece_size())]


def _m2m100(folder: Path) -> None:
    """A model of many languages: the request says from which to which."""
    import transformers

    pieces = [piece for piece in _pieces(folder, "sentencepiece.bpe.model") if piece[0] != "<"]
    vocabulary = {piece: at for at, piece in enumerate(("<s>", "<pad>", "</s>", "<unk>", *pieces))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    words = transformers.M2M100Tokenizer(
        vocab_file=str(folder / "vocab.json"), spm_file=str(folder / "sentencepiece.bpe.model"), src_lang="en"
    )
    words.save_pretrained(folder)
    config = transformers.M2M100Config(
        vocab_size=max(words.lang_token_to_id.values()) + 9, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=37, decoder_ffn_dim=37,
        max_position_embeddings=64, init_std=0.5,
    )  # fmt: skip
    model = transformers.M2M100ForConditionalGeneration(config)
    model.generation_config.update(max_length=12)
    _saved(model, folder)


def _marian(folder: Path) -> None:
    """A model of one pair of languages, whose files lack the positions that its class computes."""
    import transformers

    pieces = _pieces(folder, "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    listed = ["</s>", "<unk>", *(piece for piece in pieces if piece[0] != "<"), "<pad>"]
    vocabulary = {piece: at for at, piece in enumerate(listed)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    words = transformers.MarianTokenizer(
        source_spm=str(folder / "source.spm"), target_spm=str(folder / "target.spm"), vocab=str(folder / "vocab.json")
    )
    words.save_pretrained(folder)
    pad = len(vocabulary) - 1
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=37, decoder_ffn_dim=37, max_position_embeddings=64, init_std=0.5,
        pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0,
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    model.generation_config.update(max_length=12, bad_words_ids=[[pad]])
    _saved(model, folder)


def _maskformer(folder: Path) -> None:
    """Segmentation of every kind: semantic, instance and panoptic."""
    import transformers

    transformers.MaskFormerImageProcessorPil(
        size={"shortest_edge": 64, "longest_edge": 64}, ignore_index=255, size_divisor=32
    ).save_pretrained(folder)
    swin = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    detr = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6, use_timm_backbone=False, backbone=None,
        backbone_config=transformers.ResNetConfig(),
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=swin, decoder_config=detr, fpn_feature_size=32, mask_feature_size=32,
        **_labels("sky", "road", "tree"),
    )  # fmt: skip
    _saved(transformers.MaskFormerForInstanceSegmentation(config), folder)


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
    "speech-to-text": _whisper,
    "depth-estimation": _dpt,
    "image-to-text": _captions,
    "translation": _m2m100,
    "one-translation": _marian,
    "mask-segmentation": _maskformer,
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
