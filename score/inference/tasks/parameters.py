"""Which parameters a request may give to a task, and what each may be. Any other is refused, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from score.codecs.base import refuse_unknown
from score.errors import InvalidParameter

Check = Callable[[Any], str | None]
"""What is wrong with a value, as `has to be ...`; None where nothing is."""


def count(most: int = 1_000_000) -> Check:
    def check(value: Any) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
        return None if fits else f"a whole number from 1 to {most:,}"

    return check


def number(least: float, most: float) -> Check:
    def check(value: Any) -> str | None:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
        return None if fits else f"a number from {least:g} to {most:g}"

    return check


def one_of(*values: Any) -> Check:
    return lambda value: None if value in values else " or ".join(map(str, values))


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def text(value: Any) -> str | None:
    return None if isinstance(value, str) else "a text"


def texts(value: Any) -> str | None:
    fits = isinstance(value, str) or (
        isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    )
    return None if fits else "a list of texts, or a text"


_CUT: Mapping[str, Check] = {"truncation": flag, "max_length": count()}
_TOP: Mapping[str, Check] = {"top_k": count()}
_APPLY: Mapping[str, Check] = {"function_to_apply": one_of("sigmoid", "softmax", "none")}
_LABELS: Mapping[str, Check] = {"candidate_labels": texts, "hypothesis_template": text}
_GENERATE: Mapping[str, Check] = {
    "max_new_tokens": count(), "min_new_tokens": count(), "max_length": count(), "min_length": count(),
    "do_sample": flag, "temperature": number(1e-3, 100), "top_k": count(), "top_p": number(0, 1),
    "num_beams": count(16), "num_return_sequences": count(16), "repetition_penalty": number(1e-2, 100),
    "no_repeat_ngram_size": count(100), "length_penalty": number(-100, 100), "early_stopping": flag,
}  # fmt: skip

_SPOKEN: Mapping[str, Check] = {
    "return_timestamps": one_of(True, False, "word", "char"), "chunk_length_s": number(0.1, 3600),
    "stride_length_s": number(0, 3600), "return_language": flag,
    "language": text, "task": one_of("transcribe", "translate"), "max_new_tokens": count(), "num_beams": count(16),
}  # fmt: skip

BY_TASK: Mapping[str, Mapping[str, Check]] = {
    "text-classification": {**_TOP, **_APPLY, **_CUT},
    "token-classification": {
        "aggregation_strategy": one_of("none", "simple", "first", "average", "max"), "ignore_labels": texts,
        "stride": count(),
    },
    "question-answering": {
        **_TOP, "doc_stride": count(), "max_answer_len": count(), "max_seq_len": count(), "max_question_len": count(),
        "handle_impossible_answer": flag, "align_to_words": flag,
    },
    "fill-mask": {**_TOP, "targets": texts},
    "feature-extraction": {"truncation": flag},
    "sentence-embeddings": {"normalize": flag, "prompt_name": text},
    "text-ranking": {**_TOP, "truncation": flag},
    "zero-shot-classification": {**_LABELS, "multi_label": flag},
    "summarization": {**_GENERATE, "truncation": flag},
    "translation": {**_GENERATE, "truncation": flag, "src_lang": text, "tgt_lang": text},
    "text2text-generation": {**_GENERATE, "truncation": flag},
    "text-generation": {**_GENERATE, "return_full_text": flag, "truncation": flag},
    "image-classification": {**_TOP, **_APPLY},
    "object-detection": {"threshold": number(0, 1)},
    "image-segmentation": {
        "subtask": one_of("panoptic", "instance", "semantic"), "threshold": number(0, 1),
        "mask_threshold": number(0, 1), "overlap_mask_area_threshold": number(0, 1),
    },
    "depth-estimation": {},
    "zero-shot-image-classification": _LABELS,
    "image-to-text": _GENERATE,
    "automatic-speech-recognition": _SPOKEN,
    "audio-classification": {**_TOP, **_APPLY},
}  # fmt: skip


def checked(task: str, given: Mapping[str, Any], most_new_tokens: int) -> dict[str, Any]:
    """The parameters of a request. Raises `UnknownParameter` or `InvalidParameter`, with what there is."""
    known = BY_TASK[task]
    refuse_unknown(given, tuple(known))
    for name, value in given.items():
        wrong = known[name](value)
        if wrong:
            raise InvalidParameter(f"{name} is {value!r:.60}, and has to be {wrong}")
    for name in ("max_new_tokens", "min_new_tokens", "max_length", "min_length"):
        if "max_new_tokens" in known and given.get(name, 0) > most_new_tokens:
            raise InvalidParameter(f"{name} is {given[name]:,}, and SCORE_MAX_NEW_TOKENS allows {most_new_tokens:,}")
    return dict(given)
