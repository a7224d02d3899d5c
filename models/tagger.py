"""LSTM and GRU taggers, with the names of PyTorch's sequence tutorial (`word_embeddings`, `lstm`, `hidden2tag`)."""

from typing import Any, ClassVar

import torch
from torch import nn

from . import register
from ._shapes import Shapes, count


class _Tagger(nn.Module):
    """Token numbers [N, T] to the logarithm of each tag's probability [N, T, tags]."""

    RECURRENT: ClassVar[str]
    GATES: ClassVar[int]
    LAYER: ClassVar[type[nn.RNNBase]]

    def __init__(
        self, words: int, embedding: int, hidden: int, tags: int, layers: int = 1, bidirectional: bool = False
    ):
        super().__init__()
        self.takes = "int64[N, ?]"
        self.word_embeddings = nn.Embedding(words, embedding)
        recurrent = self.LAYER(embedding, hidden, layers, batch_first=True, bidirectional=bidirectional)  # type: ignore[call-arg, arg-type]
        self.add_module(self.RECURRENT, recurrent)
        self.hidden2tag = nn.Linear(hidden * (2 if bidirectional else 1), tags)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found, _ = self.get_submodule(self.RECURRENT)(self.word_embeddings(tokens))
        return self.hidden2tag(found).log_softmax(-1)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> dict[str, Any] | None:
        words, tags = shapes.get("word_embeddings.weight"), shapes.get("hidden2tag.weight")
        recurrent = shapes.get(f"{cls.RECURRENT}.weight_hh_l0")
        if words is None or tags is None or recurrent is None or recurrent[0] != cls.GATES * recurrent[1]:
            return None
        return {
            "words": words[0],
            "embedding": words[1],
            "hidden": recurrent[1],
            "tags": tags[0],
            "layers": count(shapes, rf"{cls.RECURRENT}\.weight_hh_l(\d+)"),
            "bidirectional": f"{cls.RECURRENT}.weight_hh_l0_reverse" in shapes,
        }


@register
class LSTMTagger(_Tagger):
    """Hochreiter and Schmidhuber, "Long short-term memory", 1997."""

    RECURRENT, GATES, LAYER = "lstm", 4, nn.LSTM


@register
class GRUTagger(_Tagger):
    """Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014."""

    RECURRENT, GATES, LAYER = "gru", 3, nn.GRU
