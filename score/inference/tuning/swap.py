"""Another way to compute in the place of a module's own `forward`, for inputs that it was tried with; any other goes to
the module itself."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from score.architectures.sentence_encoder import SentenceEncoder
from score.inference.tuning.samples import Samples, by_name, names_of

Run = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""From the inputs' tensors, in their order, to the outputs' tensors, in theirs."""


@dataclass(frozen=True)
class Answer:
    """What a module returns: its structure, and which of its leaves are tensors; the others are always the same."""

    spec: Any
    leaves: tuple[Any, ...]
    tensors: tuple[int, ...]
    scores: tuple[int, ...] = ()  # which of the tensors are scores of classes: the only one, or those named logits

    def of(self, found: Sequence[torch.Tensor]) -> Any:
        leaves = list(self.leaves)
        for at, value in zip(self.tensors, found, strict=True):
            leaves[at] = value
        return pytree.tree_unflatten(leaves, self.spec)


def answer_of(value: Any) -> Answer | None:
    """The structure of an output; None where something in it is neither a tensor nor None, a number or a text."""
    paths, spec = pytree.tree_flatten_with_path(value)
    leaves = [leaf for _, leaf in paths]
    tensors = tuple(at for at, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
    plain = all(leaf is None or isinstance(leaf, (torch.Tensor, bool, int, float, str)) for leaf in leaves)
    kept = tuple(None if at in tensors else leaf for at, leaf in enumerate(leaves))
    named = [str(pytree.keystr(paths[at][0])) for at in tensors]
    scores = tuple(at for at, name in enumerate(named) if "logits" in name or not name)
    return Answer(spec, kept, tensors, scores) if tensors and plain else None


def common_answer(module: nn.Module, samples: Samples) -> Answer | None:
    """The structure of the answers; None where it is not the same for all samples."""
    found = [answer_of(module(**dict(inputs))) for inputs in samples.all]
    first = found[0]
    alike = all(
        each is not None
        and first is not None
        and (each.spec, each.leaves, each.tensors) == (first.spec, first.leaves, first.tensors)
        for each in found
    )
    if first is not None and isinstance(module, SentenceEncoder):
        first = replace(first, scores=())  # an embedding has no best class
    return first if alike else None


def tensors_of(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


class Flat(nn.Module):
    """A module from its inputs' tensors, in order, to its outputs' tensors: what a compiler takes."""

    def __init__(self, module: nn.Module, order: Sequence[str]) -> None:
        super().__init__()
        self.module, self.order = module, tuple(order)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        own = type(self.module).forward  # and not what was put in its place
        return tuple(tensors_of(own(self.module, **dict(zip(self.order, inputs, strict=True)))))


@dataclass(frozen=True)
class Fits:
    """The inputs that were tried: names, types, and sizes; those of a free dimension within the least and the largest
    that were."""

    order: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    sizes: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, samples: Samples) -> "Fits":
        first, free = samples.all[0], samples.free
        sizes = tuple(
            tuple(free[name].get(at, (size, size)) for at, size in enumerate(first[name].shape))
            for name in samples.order
        )
        return cls(samples.order, tuple(first[name].dtype for name in samples.order), sizes)

    def as_dict(self) -> dict[str, Any]:
        return {
            name: {"dtype": str(dtype).removeprefix("torch."), "sizes": [list(size) for size in sizes]}
            for name, dtype, sizes in zip(self.order, self.dtypes, self.sizes, strict=True)
        }

    @classmethod
    def from_dict(cls, said: Any) -> "Fits":
        """What `as_dict` wrote. Raises `ValueError` for anything else."""
        try:
            dtypes = tuple(_dtype(each["dtype"]) for each in said.values())
            sizes = tuple(tuple((int(least), int(most)) for least, most in each["sizes"]) for each in said.values())
            return cls(tuple(map(str, said)), dtypes, sizes)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no sizes of inputs: {error}") from None

    def __contains__(self, inputs: Mapping[str, Any]) -> bool:
        if tuple(inputs) != self.order:
            return False
        for name, dtype, sizes in zip(self.order, self.dtypes, self.sizes, strict=True):
            value = inputs[name]
            if not isinstance(value, torch.Tensor) or value.dtype != dtype or value.dim() != len(sizes):
                return False
            if not all(least <= size <= most for size, (least, most) in zip(value.shape, sizes, strict=True)):
                return False
        return True


def swap(module: nn.Module, run: Run, fits: Fits, answer: Answer) -> None:
    """Put `run` in the place of the module's `forward`."""
    own = type(module).forward.__get__(module)
    signature = inspect.signature(own)
    names = names_of(own)

    def forward(*positional: Any, **named: Any) -> Any:
        inputs = by_name(names, positional, named)
        if inputs is None or inputs not in fits:
            return own(*positional, **named)
        return answer.of(run(list(inputs.values())))

    forward.__signature__ = signature  # type: ignore[attr-defined]
    module.forward = forward  # type: ignore[method-assign]


def _dtype(name: Any) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r:.40} is no type of numbers")
    return found
