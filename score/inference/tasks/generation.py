"""summarization, translation, text2text-generation and image-to-text: `generate`, as transformers' pipelines of version
4 called it.

Source: transformers 4.57, pipelines/text2text_generation.py and image_to_text.py.
"""

import threading
from collections.abc import Mapping
from typing import Any

import torch

from score.errors import InvalidItem
from score.inference.tasks.batched import Batched
from score.inference.tasks.of_transformers import longest, refuse_long
from score.inference.tasks.parts import Parts

_KEYS = {"summarization": "summary_text", "translation": "translation_text"}


class Text2Text:
    """Called with a text: `[{"generated_text": ...}]`, or `summary_text`, or `translation_text`."""

    def __init__(self, task: str, model: Batched, parts: Parts) -> None:
        self._key = _KEYS.get(task, "generated_text")
        self._model, self._tokenizer = model, parts.tokenizer
        self._prefix = _prefix(model, task)
        self._longest = longest(parts.tokenizer, model)
        self._lock = threading.Lock()

    def __call__(self, item: Any, parameters: Mapping[str, Any]) -> Any:
        if not isinstance(item, str) or not item:
            raise InvalidItem("this task takes texts")
        given = dict(parameters)
        cut = given.pop("truncation", False)
        languages: dict[str, str] = {name: given.pop(name) for name in ("src_lang", "tgt_lang") if name in given}
        with self._lock:
            tokens = self._tokens(self._prefix + item, cut, languages)
        refuse_long(tokens["input_ids"], self._longest)
        made = self._model.generate(**tokens, **self._languages(languages), **given)
        texts = self._tokenizer.batch_decode(made, skip_special_tokens=True)
        return [{self._key: text} for text in texts]

    def _tokens(self, text: str, cut: bool, languages: Mapping[str, str]) -> dict[str, torch.Tensor]:
        build = getattr(self._tokenizer, "_build_translation_inputs", None) if languages else None
        if build is not None and len(languages) == 2:
            made = build(text, return_tensors="pt", truncation=cut, **languages)
        else:
            made = self._tokenizer(text, return_tensors="pt", truncation=cut)
        made.pop("token_type_ids", None)  # as the pipeline has it: models that generate take none
        made.pop("forced_bos_token_id", None)
        return dict(made)

    def _languages(self, languages: Mapping[str, str]) -> dict[str, int]:
        """The first token of the answer, where it says the language."""
        wanted = languages.get("tgt_lang")
        if wanted is None:
            return {}
        known = getattr(self._tokenizer, "lang_code_to_id", None) or self._tokenizer.get_vocab()
        find = getattr(self._tokenizer, "get_lang_id", None)
        token = find(wanted) if find is not None else known.get(wanted)
        if token is None:
            raise InvalidItem(f"the tokenizer knows no language {wanted!r}")
        return {"forced_bos_token_id": int(token)}


class ImageToText:
    """Called with a picture: `[{"generated_text": ...}]`."""

    def __init__(self, model: Batched, parts: Parts) -> None:
        self._model, self._parts = model, parts

    def __call__(self, item: Any, parameters: Mapping[str, Any]) -> Any:
        pixels = self._parts.image_processor(images=item, return_tensors="pt")
        given = {name: value for name, value in pixels.items() if name == "pixel_values"}
        if self._model.config.model_type == "git":
            given["input_ids"] = None
        made = self._model.generate(**given, **parameters)
        texts = self._parts.tokenizer.batch_decode(made, skip_special_tokens=True)
        return [{"generated_text": text} for text in texts]


def _prefix(model: Batched, task: str) -> str:
    """What the configuration puts before every text."""
    said = getattr(model.config, "task_specific_params", None)
    of_task = said.get(task) if isinstance(said, dict) else None
    found = (of_task or {}).get("prefix") or getattr(model.config, "prefix", None)
    return found if isinstance(found, str) else ""
