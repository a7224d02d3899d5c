"""From a classifier's outputs to the labels with the largest probabilities."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score.errors import InvalidTopK


def how_many(in_body: Any, outside: Any) -> int | None:
    """How many classes of each row are asked for. Raises `InvalidTopK`."""
    said = outside if in_body is None else in_body
    if said is None:
        return None
    if isinstance(said, str) and said.isascii() and said.isdigit():
        said = int(said[:9])
    if type(said) is not int or said < 1:
        raise InvalidTopK(f"top_k is {said!r:.40}, and has to be a number above zero")
    return said


def named(row: Mapping[str, np.ndarray], known: Sequence[str]) -> dict[str, np.ndarray]:
    """What a detector found in a row: with `label_names` beside its `labels`, where all of these have one."""
    numbers = row.get("labels")
    if numbers is None or numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        return dict(row)
    if not all(0 <= number < len(known) for number in numbers):
        return dict(row)
    return {**row, "label_names": np.asarray([known[number] for number in numbers], np.str_)}


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """[N, classes], as they are where each row is a distribution already, else through a softmax. Logarithms of
    probabilities come out as those probabilities."""
    values = outputs.astype(np.float64)
    if np.all(values >= 0) and np.allclose(values.sum(1), 1, atol=1e-3):
        return values
    powers = np.exp(values - values.max(1, keepdims=True))
    found: np.ndarray = powers / powers.sum(1, keepdims=True)
    return found


def independent(outputs: np.ndarray) -> np.ndarray:
    """[N, classes], each class by itself, through a sigmoid: what several labels at a time are trained with."""
    values = outputs.astype(np.float64)
    found: np.ndarray = np.exp(-np.logaddexp(0, -values))
    return found


def top(outputs: np.ndarray, labels: Sequence[str], most: int, *, several: bool = False) -> list[list[dict[str, Any]]]:
    """For each row the `most` likely labels, most likely first: `[{"label": "cat", "probability": 0.93}, ...]`.

    Of models that give `several` labels at a time, each probability is by itself.
    """
    shares = independent(outputs) if several else probabilities(outputs)
    order = np.argsort(-shares, axis=1, kind="stable")[:, :most]
    return [
        [{"label": labels[at], "probability": float(row[at])} for at in best]
        for row, best in zip(shares, order, strict=True)
    ]
