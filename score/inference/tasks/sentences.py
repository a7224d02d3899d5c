"""sentence-embeddings and text-ranking, as sentence-transformers does them.

Source: sentence_transformers/SentenceTransformer.py, `encode`, and cross_encoder/CrossEncoder.py, `predict`.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score.architectures.sentence_encoder import is_cross_encoder, read_json
from score.errors import InvalidItem, InvalidParameter, MalformedFile
from score.inference.infer_signature import input_names
from score.inference.preprocess.texts import Tokenizer
from score.inference.tasks.batched import Batched
from score.inference.tasks.of_transformers import longest, refuse_long
from score.inference.tasks.parts import Parts


class Embeddings:
    """Called with a text: its embedding. With `{"source_sentence", "sentences"}`: their cosine similarities."""

    def __init__(self, model: Batched, parts: Parts) -> None:
        self._model = model
        self._tokenizer = Tokenizer(parts.folder, input_names(model.module))
        said = read_json(parts.folder / "config_sentence_transformers.json")
        prompts = said.get("prompts") if isinstance(said, dict) else None
        self._prompts: Mapping[str, Any] = prompts if isinstance(prompts, dict) else {}
        self._lock = threading.Lock()

    def __call__(self, item: Any, parameters: Mapping[str, Any]) -> Any:
        prompt = self._prompt(parameters.get("prompt_name"))
        if isinstance(item, dict) and {"source_sentence", "sentences"} <= item.keys():
            one, others = item["source_sentence"], item["sentences"]
            if not isinstance(one, str) or not isinstance(others, list) or not all(isinstance(x, str) for x in others):
                raise InvalidItem("source_sentence is a text, and sentences a list of texts")
            made = self._model.each([self._tokens(text, prompt) for text in (one, *others)])
            first, *rest = (_unit(each.numpy()[0]) for each in made)
            return [float(first @ each) for each in rest]
        if not isinstance(item, str):
            raise InvalidItem('this task takes texts, or {"source_sentence": "...", "sentences": [...]}')
        found = self._embedding(item, prompt)
        return (_unit(found) if parameters.get("normalize") else found).tolist()

    def tokens(self, text: str) -> dict[str, torch.Tensor]:
        return self._tokens(text, None)

    def _prompt(self, name: str | None) -> str | None:
        """None for the folder's own choice."""
        if name is None:
            return None
        if not isinstance(self._prompts.get(name), str):
            raise InvalidParameter(f"there is no prompt {name!r}; there is {', '.join(self._prompts) or 'none'}")
        return str(self._prompts[name])

    def _tokens(self, text: str, prompt: str | None) -> dict[str, torch.Tensor]:
        with self._lock:
            made = self._tokenizer([text], prompt)
        return {name: torch.from_numpy(value) for name, value in made.items()}

    def _embedding(self, text: str, prompt: str | None) -> np.ndarray:
        found: np.ndarray = self._model(**self._tokens(text, prompt)).numpy()[0]
        return found


def _unit(vector: np.ndarray) -> np.ndarray:
    found: np.ndarray = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return found


class Ranking:
    """Called with a pair of texts: `{"score"}`. With `{"query", "texts"}`: `[{"index", "score"}, ...]`, best first."""

    def __init__(self, model: Batched, parts: Parts) -> None:
        self._model, self._parts, self._tokenizer = model, parts, parts.tokenizer
        self._longest = longest(parts.tokenizer, model)
        self._activation = _activation(parts.folder, model.config.num_labels)
        self._lock = threading.Lock()

    def __call__(self, item: Any, parameters: Mapping[str, Any]) -> Any:
        cut = parameters.get("truncation", True)
        if isinstance(item, dict) and {"query", "texts"} <= item.keys():
            texts = item["texts"]
            if not isinstance(item["query"], str) or not isinstance(texts, list):
                raise InvalidItem("query is a text, and texts a list of texts")
            scores = self._scores([(item["query"], text) for text in texts], cut)
            order = sorted(range(len(texts)), key=lambda at: -scores[at])
            return [{"index": at, "score": scores[at]} for at in order[: parameters.get("top_k", len(order))]]
        pair = [item.get("text"), item.get("text_pair")] if isinstance(item, dict) else item
        if not isinstance(pair, list) or len(pair) != 2:
            raise InvalidItem('this task takes {"query": "...", "texts": [...]}, or pairs of texts')
        return {"score": self._scores([(pair[0], pair[1])], cut)[0]}

    def tokens(self, text: str) -> dict[str, torch.Tensor]:
        return self._tokens("a query", text, cut=True)

    def _tokens(self, one: str, other: str, *, cut: bool) -> dict[str, torch.Tensor]:
        if not isinstance(one, str) or not isinstance(other, str):
            raise InvalidItem("a pair is of two texts")
        with self._lock:
            made = self._tokenizer(one, other, return_tensors="pt", truncation=cut, max_length=self._longest)
        return self._parts.inputs(made)

    def _scores(self, pairs: Sequence[tuple[str, str]], cut: bool) -> list[float]:
        tokens = [self._tokens(one, other, cut=cut) for one, other in pairs]
        for each in tokens:
            refuse_long(each["input_ids"], self._longest)
        return [float(self._activation(found.logits[0].float())[-1]) for found in self._model.each(tokens)]


_OLD = "sbert_ce_default_activation_function"


def ranks(folder: Path) -> bool:
    """Whether sentence-transformers wrote a cross-encoder, by version 6 or as older ones said so in config.json."""
    config = read_json(folder / "config.json")
    return is_cross_encoder(folder) or (
        isinstance(config, dict) and (_OLD in config or "sentence_transformers" in config)
    )


def _activation(folder: Path, labels: int) -> Any:
    """What is applied to the logits: as the folder says, else a sigmoid for one and nothing for several. Raises
    `MalformedFile` for what is not known here: the numbers would be others."""
    config, newer = read_json(folder / "config.json"), read_json(folder / "config_sentence_transformers.json")
    config, newer = config if isinstance(config, dict) else {}, newer if isinstance(newer, dict) else {}
    theirs = config.get("sentence_transformers")
    if newer.get("default_prompt_name"):
        raise MalformedFile(f"{folder.name} is a cross-encoder with a prompt, which is not known here")
    said = newer.get("activation_fn") or (theirs if isinstance(theirs, dict) else {}).get("activation_fn")
    said = said or config.get(_OLD)
    name = str(said).rpartition(".")[2] if said else ("Sigmoid" if labels == 1 else "Identity")
    known = {"Sigmoid": torch.sigmoid, "Identity": lambda logits: logits, "Tanh": torch.tanh}
    if name not in known:
        raise MalformedFile(f"{folder.name} names the activation {said}, which is not known here")
    return known[name]
