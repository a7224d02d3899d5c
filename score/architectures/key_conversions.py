"""From the names that transformers saves to those that its modules have.

`save_pretrained` writes other names, and other cuts, than a module's state has: queries, keys and values as one tensor
or as three, a tensor an expert instead of one for all, `gamma` for `weight` in old files. transformers knows how to get
from one to the other (`get_model_conversion_mapping`), and applies it while it loads; here it is applied to the names
before these are matched, and to the values only when they are brought in.

Source: transformers/core_model_loading.py, `convert_and_load_state_dict_in_model`.
"""

import copy
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from score.architectures import computed, published
from score.errors import WeightsMismatch
from score.formats import base
from score.formats.base import TensorRef
from score.formats.dtypes import name_of
from score.weights.select import Candidate

Tensors = Mapping[str, TensorRef]


def converted(skeleton: nn.Module, weights: Candidate) -> Candidate:
    """The weights under the names of a module of transformers; as they are for any other. Raises `WeightsMismatch`
    where a conversion does not take them."""
    model = _of_transformers(skeleton)
    if model is None:
        return weights
    weights = published.renamed(model, weights)
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    state, prefix = dict(model.state_dict(keep_vars=True)), model.base_model_prefix
    found: dict[str, TensorRef] = {}
    groups: dict[str, _Group] = {}
    for name in sorted(weights.tensors, key=_natural):
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if renamed not in state and name in state:
            renamed, pattern = rename_source_key(name, [], [], prefix, state)
        if renamed not in state:
            found.setdefault(name, weights.tensors[name])
        elif pattern is None:
            found[renamed] = weights.tensors[name]
        else:
            group = groups.setdefault(renamed, _Group(renamed, copy.deepcopy(by_pattern[pattern]), model))
            group.add(renamed, name, pattern, weights.tensors[name])
    for group in groups.values():
        found.update(group.tensors())
    found.update(computed.left_out(model, state, found))
    return replace(weights, tensors=found)


def _of_transformers(skeleton: nn.Module | None) -> Any:
    """The module, or the one in it, that is of transformers."""
    transformers = sys.modules.get("transformers")
    if skeleton is None or transformers is None or not hasattr(transformers, "PreTrainedModel"):
        return None
    inner = [skeleton, *skeleton.children()]
    return next((part for part in inner if isinstance(part, transformers.PreTrainedModel)), None)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """The order in which transformers reads names: numbers by their value."""
    return [(0, int(part)) if part.isdigit() and len(part) < 10 else (1, part) for part in re.split(r"[.]", name)]


class _Group:
    """The tensors that one conversion makes others of. Their names and shapes are found out on the meta device."""

    def __init__(self, target: str, rule: Any, model: Any) -> None:
        self.target, self.rule, self.model = target, rule, model
        self.sources: list[tuple[str, str, str, TensorRef]] = []

    def add(self, target: str, name: str, pattern: str, ref: TensorRef) -> None:
        self.sources.append((target, name, pattern, ref))

    def tensors(self) -> dict[str, TensorRef]:
        try:
            made = self._run(lambda ref: torch.empty(ref.shape, dtype=ref.dtype, device="meta"))
        except Exception as error:  # noqa: BLE001  # shapes that a conversion was not made for raise anything
            names = ", ".join(name for _, name, _, _ in self.sources[:4])
            raise WeightsMismatch(
                f"{names} can't be made into {self.target}, as transformers does: {type(error).__name__}: {error}"
            ) from None
        return {name: self._ref(name, value) for name, value in made.items()}

    def _ref(self, name: str, value: torch.Tensor) -> TensorRef:
        return base.computed(name_of(value.dtype), tuple(value.shape), lambda: self._made[name])

    @cached_property
    def _made(self) -> dict[str, torch.Tensor]:
        return self._run(lambda ref: ref.load())

    def _run(self, bring: Callable[[TensorRef], torch.Tensor]) -> dict[str, torch.Tensor]:
        rule = copy.deepcopy(self.rule)
        for target, name, pattern, ref in self.sources:
            rule.add_tensor(target, name, pattern, bring(ref))
        made = rule.convert(self.target, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}
