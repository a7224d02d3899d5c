"""Tasks that transformers has a pipeline for: its steps before and after the model, around our module and batcher."""

import contextlib
import importlib
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from score.errors import InputTooLong
from score.inference.tasks.batched import Batched
from score.inference.tasks.parts import Parts

_LISTED = frozenset(("text-classification",))  # a single text's answer comes in a list, unless `top_k` is given


class Piped:
    """One task's pipeline. Called with an item and the request's parameters, it answers as the pipeline does."""

    def __init__(self, task: str, model: Batched, parts: Parts) -> None:
        from transformers.pipelines import SUPPORTED_TASKS

        known: Any = SUPPORTED_TASKS
        module, _, name = known[task]["impl"].rpartition(".")
        with _quiet():
            self._pipeline = getattr(importlib.import_module(module), name)(
                model=model, task=task, device=model.device, tokenizer=parts.tokenizer,
                image_processor=parts.image_processor, feature_extractor=parts.feature_extractor,
            )  # fmt: skip
        # Else it would send each request to a GPU by itself. The batcher does, once it has put a batch together.
        self._pipeline.device = torch.device("cpu")
        self._parts = parts
        self._longest = longest(parts.tokenizer, model)
        # Tokenizers written in Rust can't be used by two threads while one changes how they cut.
        self._lock = threading.Lock()

    def __call__(self, item: Any, parameters: Mapping[str, Any]) -> Any:
        pipeline = self._pipeline
        given = pipeline._sanitize_parameters(**parameters)
        known = (pipeline._preprocess_params, pipeline._forward_params, pipeline._postprocess_params)
        before, forward, after = ({**each, **asked} for each, asked in zip(known, given, strict=True))
        with self._lock:
            made = pipeline.preprocess(item, **before)
            chunks = list(made) if isinstance(made, Iterator) else None
        for inputs in chunks if chunks is not None else [made]:
            refuse_long(inputs.get("input_ids"), self._longest)
        if chunks is not None:
            return pipeline.postprocess([pipeline.forward(inputs, **forward) for inputs in chunks], **after)
        return pipeline.postprocess(pipeline.forward(made, **forward), **after)

    def tokens(self, text: str) -> dict[str, torch.Tensor]:
        """A text as the model takes it."""
        with self._lock:
            made = self._parts.tokenizer(text, return_tensors="pt")
        return self._parts.inputs(made)


def of_single(task: str, item: Any, answer: Any, parameters: Mapping[str, Any]) -> Any:
    """The answer to an item that came by itself, and not in a list."""
    return [answer] if task in _LISTED and isinstance(item, str) and "top_k" not in parameters else answer


def longest(tokenizer: Any, model: Any) -> int | None:
    """How many tokens a model has places for; None where that is not limited."""
    if tokenizer is None:
        return None
    places = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    limits = [each for each in (tokenizer.model_max_length, places) if isinstance(each, int) and 0 < each < 1 << 30]
    return min(limits, default=None)


def refuse_long(tokens: Any, most: int | None) -> None:
    """Raise `InputTooLong` for more tokens than there are places."""
    if isinstance(tokens, torch.Tensor) and most is not None and tokens.shape[-1] > most:
        raise InputTooLong(f"the text has {tokens.shape[-1]:,} tokens; the model takes {most:,}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers logs an error for models that it does not list for a task; ours says what is served."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
