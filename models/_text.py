"""From strings to a text model's inputs, and from its states to one embedding a text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class Tokenizer:
    """The tokenizer that lies in a model's folder; none of the folder's own code is run."""

    def __init__(self, folder: Path, inputs: Sequence[str]):
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        # Some tokenizers make more than their model takes.
        self.names: list[str] = [name for name in self._tokenizer.model_input_names if name in inputs]
        self._longest = _longest(folder, self._tokenizer.model_max_length)
        if self._tokenizer.pad_token is None:  # GPT-2 and others have none; the mask says what is padding
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """int64[N, T] for each input of the model, cut to what it takes and padded to the longest text."""
        found = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="np"
        )
        return {name: np.asarray(value, np.int64) for name, value in found.items() if name in self.names}


def is_there(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "spiece.model", "vocab.json"))


class SentenceEncoder(nn.Module):
    """A text model with the pooling that sentence-transformers kept in `modules.json`: [N, T] to embeddings [N, H]."""

    POOLINGS = ("pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens")

    def __init__(self, model: nn.Module, pooling: str, normalize: bool):
        super().__init__()
        self.model, self.pooling, self.normalize = model, pooling, normalize

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)
        if self.pooling == "pooling_mode_cls_token":
            found = states[:, 0]
        elif self.pooling == "pooling_mode_max_tokens":
            found = states.masked_fill(mask == 0, -1e9).amax(1)
        else:
            found = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(found, dim=1) if self.normalize else found


def sentence_modules(folder: Path) -> tuple[str, bool] | None:
    """The pooling and whether embeddings are normalised, as `modules.json` says; None where it says something else."""
    listed = _read(folder / "modules.json")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        return None
    kinds = [str(entry.get("type", "")).rpartition(".")[2] for entry in listed]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        return None
    place = str(listed[1].get("path", ""))
    config = _read(folder / place / "config.json") if place.replace("_", "").isalnum() else None
    modes = [name for name, on in config.items() if on is True and name.startswith("pooling_mode_")] if config else []
    if len(modes) != 1 or modes[0] not in SentenceEncoder.POOLINGS:
        return None
    return modes[0], kinds[2:] == ["Normalize"]


def _longest(folder: Path, by_tokenizer: int) -> int:
    config = _read(folder / "sentence_bert_config.json")
    said = config.get("max_seq_length") if isinstance(config, dict) else None
    return min(value for value in (said, by_tokenizer, 1 << 20) if isinstance(value, int) and value > 0)


def _read(path: Path) -> Any:
    if not path.is_file() or path.stat().st_size > 1_000_000:
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None
