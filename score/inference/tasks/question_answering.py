"""question-answering: the best spans of a context, as transformers computed them up to its version 4, which had a
pipeline for it.

Source: transformers 4.57, pipelines/question_answering.py. A context that is longer than the model takes is read in
windows that overlap; answers that are the same text count as one.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from score.errors import InvalidItem
from score.inference.tasks.batched import Batched
from score.inference.tasks.parts import Parts

_LONGEST, _STRIDE, _ANSWER = 384, 128, 15  # tokens, where a request does not say


class QuestionAnswering:
    """Called with `{"question", "context"}`: `{"score", "start", "end", "answer"}`, or a list of `top_k` of these."""

    def __init__(self, model: Batched, parts: Parts) -> None:
        self._model, self._parts, self._tokenizer = model, parts, parts.tokenizer
        self._lock = threading.Lock()

    def __call__(self, item: Any, parameters: Mapping[str, Any]) -> Any:
        if not isinstance(item, dict) or not {"question", "context"} <= item.keys():
            raise InvalidItem('question-answering takes {"question": "...", "context": "..."}')
        question, context = item["question"], item["context"]
        if not isinstance(question, str) or not isinstance(context, str) or not question or not context:
            raise InvalidItem("a question and its context are texts, and not empty")
        most = parameters.get("top_k", 1)
        answers = self._answers(question, context, parameters, most)
        return answers[0] if most == 1 and answers else answers[:most]

    def tokens(self, text: str) -> dict[str, torch.Tensor]:
        with self._lock:
            made = self._tokenizer(text, "a context", return_tensors="pt")
        return self._parts.inputs(made)

    def _answers(self, question: str, context: str, parameters: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        no_answer = 1_000_000.0
        allowed = parameters.get("handle_impossible_answer", False)
        for window in self._windows(question, context, parameters):
            found = self._model(**self._parts.inputs(window))
            starts, ends = (np.asarray(found[name][0].float()) for name in ("start_logits", "end_logits"))
            places, null = _spans(starts, ends, window["allowed"], parameters, most)
            no_answer = min(no_answer, null)
            for start, end, score in places:
                first, last = self._characters(window, start, end, parameters.get("align_to_words", True))
                text = context[first:last]
                same = next((each for each in answers if each["answer"].lower() == text.lower()), None)
                if same is not None:
                    same["score"] += float(score)
                else:
                    answers.append({"score": float(score), "start": first, "end": last, "answer": text})
        if allowed:
            answers.append({"score": float(no_answer), "start": 0, "end": 0, "answer": ""})
        return sorted(answers, key=lambda answer: answer["score"], reverse=True)

    def _windows(self, question: str, context: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The question with each part of the context, and which tokens may be an answer."""
        tokenizer = self._tokenizer
        longest = min(parameters.get("max_seq_len", _LONGEST), tokenizer.model_max_length)
        stride = min(parameters.get("doc_stride", _STRIDE), longest // 2)
        right = tokenizer.padding_side == "right"
        with self._lock:
            encoded = tokenizer(
                text=question if right else context, text_pair=context if right else question, padding=False,
                truncation="only_second" if right else "only_first", max_length=longest, stride=stride,
                return_overflowing_tokens=True, return_offsets_mapping=True,
            )  # fmt: skip
        windows = []
        for at, tokens in enumerate(encoded["input_ids"]):
            sequences = encoded.sequence_ids(at)
            may = np.array([each == (1 if right else 0) for each in sequences])
            if tokenizer.cls_token_id is not None:  # it stands for no answer
                may |= np.array(tokens) == tokenizer.cls_token_id
            window = {
                name: torch.tensor([encoded[name][at]]) for name in tokenizer.model_input_names if name in encoded
            }
            windows.append({**window, "allowed": may, "encoding": encoded.encodings[at], "sequence": 1 if right else 0})
        return windows

    def _characters(self, window: Mapping[str, Any], start: int, end: int, words: bool) -> tuple[int, int]:
        """Where a span of tokens begins and ends in the context; at the ends of `words`, if the tokenizer has them."""
        encoding, sequence = window["encoding"], window["sequence"]
        if words:
            first, last = encoding.token_to_word(start), encoding.token_to_word(end)
            if first is not None and last is not None:
                return (
                    int(encoding.word_to_chars(first, sequence)[0]),
                    int(encoding.word_to_chars(last, sequence)[1]),
                )
        return int(encoding.offsets[start][0]), int(encoding.offsets[end][1])


def _spans(
    starts: np.ndarray, ends: np.ndarray, allowed: np.ndarray, parameters: Mapping[str, Any], most: int
) -> tuple[list[tuple[int, int, float]], float]:
    """The likeliest spans of a window, `(first token, last token, score)`, and the score of there being none."""
    starts, ends = (_softmax(np.where(allowed, values, -10_000.0)) for values in (starts, ends))
    null = float(starts[0] * ends[0])
    starts[0] = ends[0] = 0.0
    length = min(parameters.get("max_answer_len", _ANSWER), len(starts))
    scores = np.tril(np.triu(np.outer(starts, ends)), length - 1)
    flat = scores.ravel()
    if most == 1:
        order = [int(flat.argmax())]
    elif len(flat) <= most:
        order = list(np.argsort(-flat))
    else:
        part = np.argpartition(-flat, most)[:most]
        order = list(part[np.argsort(-flat[part])])
    places = [divmod(int(at), len(ends)) for at in order]
    found = [(start, end, float(scores[start, end])) for start, end in places if allowed[start] and allowed[end]]
    return found, null


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    found: np.ndarray = powers / powers.sum()
    return found
