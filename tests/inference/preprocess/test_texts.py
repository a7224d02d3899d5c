"""Texts to token ids, as the folder's own tokenizer has it."""

import json
from pathlib import Path

import numpy as np
import pytest

from score.errors import MalformedFile
from score.inference.preprocess.texts import Tokenizer, is_there

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "weights", "are", "never", "unavailable"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": 6}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path


def test_texts_are_padded_to_the_longest_and_cut_to_what_the_model_takes(folder: Path) -> None:
    found = Tokenizer(folder, ["input_ids", "attention_mask"])(["the weights", "the weights are never unavailable"])
    assert found["input_ids"].tolist() == [[2, 5, 6, 3, 0, 0], [2, 5, 6, 7, 8, 3]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert found["input_ids"].dtype == np.int64
    assert "token_type_ids" not in found  # the model does not take them


def test_a_prompt_goes_first(folder: Path) -> None:
    said = {"prompts": {"query": "never "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    assert Tokenizer(folder, ["input_ids"])(["the"])["input_ids"].tolist() == [[2, 8, 5, 3]]


def test_no_tokenizer_and_a_broken_one(folder: Path, tmp_path: Path) -> None:
    assert is_there(folder)
    (folder / "vocab.txt").unlink()
    assert not is_there(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(MalformedFile, match="tokenizer"):
        Tokenizer(folder, ["input_ids"])
