"""Models under the names that their publishers gave them, built by transformers: one file each.

To add one, add a file with `NAMES`, its classes in transformers; `factory(shapes)`, the class for weights of these
names and shapes, or None for those that are not its own; and `renamed(tensors)`, its weights under transformers' names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType

import torch

from score.architectures.published import clip, dino, dinov2, sam, whisper
from score.formats.base import ModelFactory, Shapes, TensorRef
from score.weights.select import Candidate

_MODELS: tuple[ModuleType, ...] = (clip, dino, dinov2, sam)


def of(shapes: Shapes) -> ModelFactory | None:
    """The class of some weights, where they are of a known publisher's and transformers is installed."""
    found = next((made for each in _MODELS if (made := each.factory(shapes)) is not None), None)
    return found if importlib.util.find_spec("transformers") is not None else None


def renamed(module: torch.nn.Module, weights: Candidate) -> Candidate:
    """The weights under transformers' names, where they are a publisher's of this class; as they are for any other."""
    name = type(module).__name__
    if name == whisper.NAME:
        return whisper.renamed(weights)
    for each in _MODELS:
        if name in each.NAMES and each.factory(weights.shapes()) is not None:
            made: Mapping[str, TensorRef] = each.renamed(weights.tensors)
            return replace(weights, tensors=dict(made))
    return weights
