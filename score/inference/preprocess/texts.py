"""From strings to a text model's inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score.architectures.sentence_encoder import read_json
from score.errors import InputTooLong, MalformedFile


class Tokenizer:
    """The tokenizer that lies in a model's folder; none of the folder's own code is run."""

    def __init__(self, folder: Path, inputs: Sequence[str]):
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001  # transformers and its parsers raise anything
            raise MalformedFile(
                f"{folder.name}: transformers can't make a tokenizer of its files "
                f"({type(error).__name__}: {str(error)[:300]})",
                hint="Get the tokenizer's files again; without them, the model takes token ids.",
            ) from None
        # Some tokenizers make more than their model takes.
        self.names: list[str] = [name for name in self._tokenizer.model_input_names if name in inputs]
        self._longest = _longest(folder, self._tokenizer.model_max_length)
        self._prompt = _prompt(folder)
        said = read_json(folder / "sentence_bert_config.json")
        self._lower = isinstance(said, dict) and said.get("do_lower_case") is True
        if self._tokenizer.pad_token is None:  # GPT-2 and others have none; the mask says what is padding
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def __call__(self, texts: Sequence[str], prompt: str | None = None) -> dict[str, np.ndarray]:
        """int64[N, T] for each input of the model, cut to what it takes and padded to the longest text. A `prompt`
        comes before each text in place of the folder's own."""
        prompt = self._prompt if prompt is None else prompt
        given = [prompt + (text.lower() if self._lower else text) for text in texts]
        found = self._tokenizer(given, padding=True, truncation=True, max_length=self._longest, return_tensors="np")
        return {name: np.asarray(value, np.int64) for name, value in found.items() if name in self.names}

    def count(self, texts: Sequence[str]) -> int:
        """How many tokens the model is given for texts."""
        return int(self(texts)["attention_mask"].sum()) if "attention_mask" in self.names else 0


def refuse_long(item: Any, most: int) -> None:
    """Raise `InputTooLong` for a text, or a list or an object of texts, of more characters than are allowed."""
    waiting, count = [item], 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            count += len(each)
        elif isinstance(each, (list, dict)):
            waiting += each.values() if isinstance(each, dict) else each
    if count > most:
        raise InputTooLong(
            f"the text has {count:,} characters, and SCORE_MAX_TEXT_CHARACTERS allows {most:,}",
            hint="Send shorter ones, or raise SCORE_MAX_TEXT_CHARACTERS.",
        )


def is_there(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "spiece.model", "vocab.json"))


def _prompt(folder: Path) -> str:
    """What sentence-transformers puts before every text, if it does."""
    config = read_json(folder / "config_sentence_transformers.json")
    prompts = config.get("prompts") if isinstance(config, dict) else None
    found = prompts.get(config.get("default_prompt_name")) if isinstance(prompts, dict) else None
    return found if isinstance(found, str) else ""


def _longest(folder: Path, by_tokenizer: int) -> int:
    config = read_json(folder / "sentence_bert_config.json")
    said = config.get("max_seq_length") if isinstance(config, dict) else None
    return min(value for value in (said, by_tokenizer, 1 << 20) if isinstance(value, int) and value > 0)
