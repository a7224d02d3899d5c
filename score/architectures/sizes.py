"""The arguments with which a class takes some weights, where only sizes differ: found by building it, on the meta
device, with the sizes that the weights have."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from score.architectures.meta_init import shapes, skeleton, tied
from score.errors import LoadError
from score.formats.base import Shapes
from score.weights.align import Alignment, align

MOST_TRIALS = 400
MOST_CHANGED = 3  # arguments at a time
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def fitting(cls: Callable[..., Any], kwargs: Mapping[str, Any], given: Shapes) -> dict[str, Any] | None:
    """`kwargs` and what has to be said beside them for the class to take weights of these shapes, as few arguments as
    may be; None where no sizes help."""
    parameters = {name: each for name, each in inspect.signature(cls).parameters.items() if each.kind not in _VARIADIC}
    lacking = [name for name, each in parameters.items() if each.default is each.empty and name not in kwargs]
    if lacking:
        sizes = sorted({size for shape in given.values() for size in shape})
        return _first(cls, kwargs, given, (dict.fromkeys(lacking, sizes),)) if len(lacking) <= MOST_CHANGED else None
    found = _aligned(cls, kwargs, given)
    if found is None or found[1].missing or not found[1].misshaped:
        return None
    model, alignment = found
    pairs = [
        (ours, theirs)
        for name in alignment.misshaped
        for ours, theirs in zip(model[name], given[alignment.mapping[name]], strict=False)
        if ours != theirs
    ]
    now = {name: kwargs.get(name, each.default) for name, each in parameters.items()}
    whole = {name: value for name, value in now.items() if isinstance(value, int) and not isinstance(value, bool)}
    options = {name: sorted({new for old, new in pairs if old == value}) for name, value in whole.items()}
    likely = {name: values for name, values in options.items() if values}
    changes = (
        {name: likely[name] for name in names}
        for count in range(1, MOST_CHANGED + 1)
        for names in itertools.combinations(likely, count)
    )
    return _first(cls, kwargs, given, changes)


def _first(cls: Callable[..., Any], kwargs: Mapping[str, Any], given: Shapes, changes: Any) -> dict[str, Any] | None:
    for trial in itertools.islice(_products(changes), MOST_TRIALS):
        whole = {**kwargs, **trial}
        found = _aligned(cls, whole, given)
        if found is not None and found[1].loads:
            return whole
    return None


def _products(changes: Any) -> Iterator[dict[str, int]]:
    for change in changes:
        for values in itertools.product(*change.values()):
            yield dict(zip(change, values, strict=True))


def _aligned(cls: Callable[..., Any], kwargs: Mapping[str, Any], given: Shapes) -> tuple[Shapes, Alignment] | None:
    """The class's own shapes, and how the weights match them; None where it can't be built like that."""
    try:
        module = skeleton("", cls, kwargs, source="").module
        own = shapes(module)
        return own, align(own, given, tied=tied(module))
    except LoadError:
        return None
