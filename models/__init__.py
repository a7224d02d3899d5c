"""Architectures, one file each. Put yours here:

    from models import register

    @register(inputs="float32[N, 10]")
    class MyModel(nn.Module): ...

The class is then known by its name (`SCORE_ARCHITECTURE=MyModel`), and recognised from its keys and shapes where no
other registered class has the same. `inputs` is optional: what the model takes, as in the setting `SCORE_INPUTS`; an
instance may say it as its attribute `takes`. `recipe` is the well-known one for its images
(`score.inference.preprocess.images.RECIPES`), `white` the value of a white pixel in images that are given as numbers.

A class whose sizes vary may offer `from_shapes`, a class method from the checkpoint's names and shapes to the
constructor's keyword arguments, or None where they are not its own. A parameter without a default that it leaves out is
one that shapes can't tell: it has to be said in `SCORE_ARCHITECTURE_KWARGS`, and is never guessed.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

from torch import nn

from score.imports import models_folder

if __name__ == models_folder.COMMON:  # imported before `score` was: there is but one registry, under its own name
    sys.modules[__name__] = importlib.import_module(models_folder.OWN)

Model = TypeVar("Model", bound=type[nn.Module])


@dataclass(frozen=True)
class Registered:
    """One registered class: its name, what it takes, its images' recipe, the value of a white pixel (None where that
    was not said), and the names of its classes, in order."""

    name: str
    cls: Callable[..., nn.Module]
    inputs: str | dict[str, str] | None = None
    recipe: str | None = None
    white: float | None = None
    labels: tuple[str, ...] = ()


_REGISTERED: dict[str, Registered] = {}


@overload
def register(cls: Model, /) -> Model: ...
@overload
def register(
    *,
    inputs: str | dict[str, str] | None = None,
    recipe: str | None = None,
    white: float | None = None,
    labels: Sequence[str] = (),
) -> Callable[[Model], Model]: ...
def register(
    cls: Model | None = None,
    /,
    *,
    inputs: str | dict[str, str] | None = None,
    recipe: str | None = None,
    white: float | None = None,
    labels: Sequence[str] = (),
) -> Model | Callable[[Model], Model]:
    """Class decorator: make a `torch.nn.Module` known by its name. Two classes can't share one (`ValueError`)."""

    def add(found: Model) -> Model:
        known = _REGISTERED.get(found.__name__)
        if known is not None and known.cls.__module__ != found.__module__:
            raise ValueError(f"{found.__name__} is registered by {known.cls.__module__} and {found.__module__}")
        _REGISTERED[found.__name__] = Registered(found.__name__, found, inputs, recipe, white, tuple(labels))
        return found

    return add if cls is None else add(cls)


def registered() -> dict[str, Registered]:
    """All registered classes by name; imports every file of this package on the first call."""
    for info in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{info.name}")
    return dict(_REGISTERED)
