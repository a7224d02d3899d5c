"""Requests of different lengths as one batch: padded to the longest, and each answer cut to its own length again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from score.codecs.base import Arrays
from score.inference.batching import lengths
from score.inference.batching.rows import Inputs, Rows, rows_and_kind, same_rows

MASK = "attention_mask"
CONSIDERED = 64  # requests; the oldest, where more wait


@dataclass
class Padded(Rows):
    """`values` are what each input [N, T] is padded with, on the right. `pads` says whether the model's answers are
    then those that it gives alone: that is tried, and until then only requests of one length are put together.
    `follows` are the outputs [N, T, ...], and `cost` what a pass costs beside its tokens, in tokens."""

    values: Mapping[str, int] = field(default_factory=dict)
    pads: bool = False
    follows: frozenset[str] = frozenset()
    cost: float = lengths.AT_FIRST

    def kind(self, inputs: Inputs) -> tuple[int, Any]:
        rows, kind = rows_and_kind(inputs)
        length = self.length(inputs)
        if kind is None or not self.pads or length is None:
            return rows, kind
        return rows, tuple((name, rest[0]) if name in self.values else (name, *rest) for name, *rest in kind)

    def choose(self, waiting: Sequence[Inputs], rows: Sequence[int], most: int) -> list[int]:
        found = [self.length(inputs) for inputs in waiting[:CONSIDERED]]
        known = [length for length in found if length is not None]
        if not self.pads or len(known) < len(found):
            return super().choose(waiting, rows, most)
        return lengths.together(known, rows[:CONSIDERED], most, self.cost)

    def join(self, batch: Sequence[Inputs]) -> Inputs:
        longest = max(self.length(inputs) or 0 for inputs in batch)
        padded = [
            {name: self._to(longest, name, value) for name, value in inputs.items()} if longest else inputs
            for inputs in batch
        ]
        return super().join(padded)

    def split(self, outputs: Arrays, batch: Sequence[Inputs], rows: Sequence[int]) -> list[Arrays]:
        return [
            self._cut(part, self.length(inputs))
            for part, inputs in zip(super().split(outputs, batch, rows), batch, strict=True)
        ]

    def learn(self, one: Inputs, other: Inputs, answers: tuple[Arrays, Arrays]) -> None:
        """Find out which outputs are as long as the input, from two requests of different lengths and their answers."""
        long = self.length(one), self.length(other)
        first, second = answers
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            self.follows = frozenset(
                name
                for name in first.keys() & second.keys()
                if (first[name].shape[1:2], second[name].shape[1:2]) == ((long[0],), (long[1],))
            )

    def agrees(self, together: Arrays, batch: Sequence[Inputs], alone: Sequence[Arrays], tolerance: float) -> bool:
        """Whether a padded batch says what its requests say alone."""
        rows = [rows_and_kind(inputs)[0] for inputs in batch]
        parts = self.split(together, batch, rows)
        return all(
            same_rows(part, [single], [count], tolerance)
            for part, single, count in zip(parts, alone, rows, strict=True)
        )

    def length(self, inputs: Inputs) -> int | None:
        """T, where the inputs that can be padded agree on it, and a mask says what is padding."""
        found = {
            value.shape[1] if isinstance(value, torch.Tensor) and value.dim() == 2 else -1
            for name, value in inputs.items()
            if name in self.values
        }
        return found.pop() if len(found) == 1 and MASK in inputs and -1 not in found else None

    def _to(self, length: int, name: str, value: Any) -> Any:
        if name not in self.values or value.shape[1] == length:
            return value
        return torch.nn.functional.pad(value, (0, length - value.shape[1]), value=self.values[name])

    def _cut(self, outputs: Arrays, length: int | None) -> Arrays:
        if length is None or not isinstance(outputs, Mapping):
            return outputs
        return {name: value[:, :length] if name in self.follows else value for name, value in outputs.items()}
