"""Inputs to try a model with: what a request would give it, in several numbers of rows and lengths."""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from score.errors import RequestError
from score.inference.infer_signature import sized
from score.inference.predictor import Predictor
from score.inference.signature import InputSpec

Inputs = Mapping[str, torch.Tensor]
ROWS = (1, 2, 3, 5, 8, 16, 32, 64, 128, 256)
FEW = (1, 2)
LONG_PASS = 1.5  # seconds; larger ones are not tried
_WORDS = ("the", "weights", "are", "never", "unavailable", "nothing", "from", "a", "file", "runs", "an", "answer", "is")
_LENGTHS = (1, 4, 9, 17, 40, 90)  # words of a made-up text
_LONG = (180, 350, 480)  # alone; a model that takes fewer refuses them


@dataclass(frozen=True)
class Samples:
    """Inputs by name, of one set of names; `order` are the names as `forward` has them."""

    order: tuple[str, ...]
    all: tuple[Inputs, ...]

    @property
    def free(self) -> dict[str, dict[int, tuple[int, int]]]:
        """By input and dimension, the least and the largest size, where it differs from sample to sample."""
        found: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in self.order}
        for name in self.order:
            shapes = [each[name].shape for each in self.all]
            for dimension in range(len(shapes[0])):
                sizes = {shape[dimension] for shape in shapes}
                if len(sizes) > 1:
                    found[name][dimension] = (min(sizes), max(sizes))
        return found


def rows_of(inputs: Inputs) -> int:
    first = next(iter(inputs.values()))
    return first.shape[0] if first.dim() else 1


def most_rows(samples: Samples) -> int:
    return max(rows_of(each) for each in samples.all)


def typical(samples: Samples) -> Inputs:
    """The sample whose rows are neither short nor long; of those alike, the one with the most rows."""

    def length(inputs: Inputs) -> float:
        return sum(value.numel() for value in inputs.values()) / max(rows_of(inputs), 1)

    middle = sorted(map(length, samples.all))[len(samples.all) // 2]
    return max((each for each in samples.all if length(each) == middle), key=rows_of)


def with_rows(samples: Samples, rows: int) -> Inputs | None:
    """The rows of the typical sample, as many as are wanted; None where a pass can't have as many."""
    given = typical(samples)
    own = rows_of(given)
    if rows == own:
        return given
    free = [name for name, sizes in samples.free.items() if 0 in sizes]
    if not free or any(given[name].shape[0] != own for name in free):
        return None
    at = torch.arange(rows) % own
    return {name: value[at.to(value.device)] if name in free else value for name, value in given.items()}


def of(predictor: Predictor, bodies: Sequence[Callable[[], Any]] = (), *, few: bool = False) -> Samples | None:
    """What a model is given for some requests, or for made-up ones, a `few` or in all sizes; None where that is not
    known, or where it is not tensors by name of the same ranks and types each time."""
    recorded: list[Inputs] = []
    if predictor.runner is not None and predictor.problem is not None:  # which finds out whether texts can be padded
        return None
    long = False
    with _recording(predictor.module, recorded):
        for ask in bodies or _made_up(predictor, FEW if few else ROWS):
            start = time.monotonic()
            try:
                ask()
            except RequestError:
                continue
            long = not bodies and time.monotonic() - start > LONG_PASS
            if long:
                break
    if not recorded:
        return None
    order = tuple(recorded[0])
    alike = {tuple((name, each[name].dtype, each[name].dim()) for name in each) for each in recorded}
    if len(alike) != 1 or not order:
        return None
    found = Samples(order, tuple(recorded))
    return found if few or bodies or long else _with_more_rows(found, predictor)


def _with_more_rows(found: Samples, predictor: Predictor) -> Samples:
    """With passes of as many rows as there may be, where those that were made up had fewer; but for long ones."""
    most, rows, every = predictor.settings.max_batch, most_rows(found), list(found.all)
    while rows < most and (inputs := with_rows(found, rows := min(2 * rows, most))) is not None:
        start = time.monotonic()
        try:
            with torch.inference_mode():
                predictor.module(**inputs)
        except RuntimeError:  # out of memory
            break
        every.append(inputs)
        if time.monotonic() - start > LONG_PASS / 2:
            break
    return Samples(found.order, tuple(every))


@contextmanager
def _recording(module: nn.Module, into: list[Inputs]) -> Iterator[None]:
    """Keep what the module is called with, where it is tensors alone."""
    own = module.forward
    names = names_of(own)

    def forward(*positional: Any, **named: Any) -> Any:
        held = by_name(names, positional, named)
        if held is not None and all(isinstance(value, torch.Tensor) for value in held.values()):
            into.append({name: value.detach().clone() for name, value in held.items()})
        return own(*positional, **named)

    forward.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward


def names_of(forward: Callable[..., Any]) -> list[str]:
    """The inputs that can be given by name, in order."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, each in inspect.signature(forward).parameters.items() if each.kind in kinds]


def by_name(names: Sequence[str], positional: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a call gives but None, in the order of the `names`; None for one that gives something else too."""
    given = {**dict(zip(names, positional, strict=False)), **named}
    held = {name: given[name] for name in names if given.get(name) is not None}
    whole = len(positional) <= len(names) and len(held) == sum(value is not None for value in given.values())
    return held if whole else None


def _made_up(predictor: Predictor, sizes: Sequence[int]) -> Iterator[Any]:
    runner = predictor.runner
    if runner is not None:
        yield from (lambda items=items: runner(items, {}) for items in _items(predictor, sizes))  # type: ignore[misc]
        return
    if not predictor.signature.known:
        return
    generator = torch.Generator().manual_seed(1)
    specs = [spec for spec in predictor.signature.inputs if spec.required]
    free = all(spec.shape is None or (spec.shape and spec.shape[0] is None) for spec in specs if not spec.scalar)
    words = min(
        (part.num_embeddings for part in predictor.module.modules() if isinstance(part, nn.Embedding)), default=2
    )
    most = predictor.settings.max_batch
    several = [rows for rows in sizes if rows <= most]
    for rows in several if free and predictor.batcher.separable else (1, 1, 1):
        inputs = {spec.name: _value(spec, rows, words, generator) for spec in specs if not spec.scalar}
        yield lambda inputs=inputs: predictor.predict(inputs)


def _value(spec: InputSpec, rows: int, words: int, generator: torch.Generator) -> torch.Tensor:
    shape = sized(spec, rows)
    if spec.torch_dtype.is_floating_point:
        return torch.rand(shape, generator=generator).to(spec.torch_dtype)
    if spec.name.endswith("mask") or spec.torch_dtype == torch.bool:
        return torch.ones(shape, dtype=spec.torch_dtype)
    return torch.randint(0, words, shape, generator=generator).to(spec.torch_dtype)


def _items(predictor: Predictor, sizes: Sequence[int]) -> Iterator[Any]:
    """Items of a task: alone and several at once, short and long."""
    assert predictor.runner is not None
    one = predictor.runner.made_up()
    first = one.values[0]
    if not isinstance(first, str) or "mask" in predictor.runner.task:
        for count in (1, 2, 4):
            yield replace(one, values=one.values * count, single=False)
        return
    lengths = _LENGTHS if sizes is ROWS else _LENGTHS[1:3]
    texts = [" ".join(_WORDS[at % len(_WORDS)] for at in range(length)) for length in lengths]
    for text in texts:
        yield replace(one, values=(text,))
    for start in range(2):
        yield replace(one, values=tuple(texts[start:]), single=False)
    for rows in sizes:
        if rows > predictor.settings.max_batch:
            break
        yield replace(one, values=tuple(texts[at % min(3, len(texts))] for at in range(rows)), single=False)
    for length in _LONG if sizes is ROWS else ():
        yield replace(one, values=(" ".join(_WORDS[at % len(_WORDS)] for at in range(length)),))
