"""Recognise which architecture some weights belong to, by their keys and shapes alone.

In this order: a class in `models/`, a provider's architecture with exactly these keys and shapes, one that differs in
its head only. What shapes can't tell (activations, strides) is never guessed: it is an error that says which setting
decides.
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import loadstone_models as models

from score.architectures import fingerprints, flat_parameters
from score.architectures.fingerprints import Fingerprint
from score.architectures.libraries import PROVIDERS, builder, installing
from score.architectures.meta_init import Skeleton, shapes, skeleton, tied, where
from score.errors import (
    ArchitectureAmbiguous,
    ArchitectureBroken,
    ArchitectureUndecided,
    InvalidSetting,
    PrefixAmbiguous,
    ProviderMissing,
    WeightsMismatch,
)
from score.formats.base import Shapes
from score.weights.align import Alignment, align
from score.weights.select import Candidate

SOURCE = "recognised by keys and shapes"
_MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # of a from_shapes on foreign shapes


@dataclass(frozen=True)
class Fit:
    """An entry of `models/` and the arguments with which it fits; `undecided` are those that are still to be said."""

    entry: models.Registered
    kwargs: Mapping[str, Any]
    undecided: tuple[str, ...] = ()


def recognise(
    weights: Candidate, kwargs: Mapping[str, Any] | None = None, saved: Sequence[Mapping[str, Any]] = ()
) -> Skeleton | None:
    """The one architecture whose keys and shapes are those of the weights; None if there is none.

    `kwargs` go over what is inferred, and over the `saved` arguments. Raises `ArchitectureAmbiguous` if there are
    several, `ArchitectureUndecided` if something is left to be said, `ProviderMissing` if it belongs to a package
    that is not installed.
    """
    given, registered = kwargs or {}, registered_models()
    entries = registered.values()
    if (found := fitting(entries, weights, given, saved, SOURCE)) is not None:
        follows_torchvision = registered[found.name].recipe is not None
        return replace(found, source=found.source + _others(weights.shapes())) if follows_torchvision else found
    if (found := _indexed(weights.shapes(), given)) is not None:
        return found
    for fit in fits(entries, weights.shapes(), given, saved):
        if fit.undecided:
            raise _undecided(fit)
    return None


def fitting(
    entries: Iterable[models.Registered],
    weights: Candidate,
    kwargs: Mapping[str, Any],
    saved: Sequence[Mapping[str, Any]],
    source: str,
) -> Skeleton | None:
    """The one of some classes with exactly the keys and shapes of the weights. Raises `ArchitectureAmbiguous`."""
    decided: dict[str, Skeleton] = {}
    for fit in fits(entries, weights.shapes(), kwargs, saved):
        if not fit.undecided and fit.entry.name not in decided:
            built = _built(fit, weights, kwargs, source)
            if built is not None:
                _refuse_contradiction(fit.entry, weights, kwargs, saved)
                decided[fit.entry.name] = built
    if len(decided) > 1:
        raise ArchitectureAmbiguous(
            f"{len(decided)} architectures fit the weights: {', '.join(decided)}",
            choices=[{"architecture": name} for name in decided],
        )
    return next(iter(decided.values()), None)


def by_name(
    entry: models.Registered,
    kwargs: Mapping[str, Any],
    saved: Sequence[Mapping[str, Any]],
    weights: Candidate | None,
    source: str,
) -> Skeleton:
    """A class that was named: what `kwargs` leave open is what the checkpoint `saved`, or inferred from its shapes.

    Of several such ways the first under which the weights load is taken; if there is none, that with `kwargs` alone, so
    that the difference to the weights is shown. Raises `ArchitectureUndecided` where something is left to be said.
    """
    undecided = None
    if weights is not None:
        _refuse_contradiction(entry, weights, kwargs, saved)
    for fit in fits([entry], weights.shapes() if weights else {}, kwargs, saved):
        whole = replace(fit, kwargs={**fit.kwargs, **kwargs})  # one that the class does not know has to be heard of
        if fit.undecided:
            undecided = fit
        elif weights is not None and (built := _built(whole, weights, kwargs, source, exactly=False)) is not None:
            return built
    if undecided is not None:
        raise _undecided(undecided)
    return skeleton(entry.name, entry.cls, kwargs, source=source, inputs=entry.inputs)


def registered_models() -> dict[str, models.Registered]:
    """All of `models/`. A file there that can't be imported is an error that names it."""
    try:
        found: dict[str, models.Registered] = models.registered()
        return found
    except Exception as error:  # noqa: BLE001  # users' files raise anything
        raise ArchitectureBroken(
            f"a file in models/ can't be imported: {type(error).__name__}: {error}",
            hint="Mend the file, or take it out of models/.",
            detail=where(error),
        ) from None


def fits(
    entries: Iterable[models.Registered],
    given: Shapes,
    kwargs: Mapping[str, Any],
    saved: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Fit]:
    """The ways in which classes may fit: with arguments that the checkpoint saved, inferred ones, or those given."""
    for entry in entries:
        for mapping in saved:
            if kept := _accepted(entry.cls, mapping):
                merged = {**kept, **_accepted(entry.cls, kwargs)}
                if not _missing(entry.cls, merged):
                    yield Fit(entry, merged)
        if hasattr(entry.cls, "from_shapes"):
            yield from _inferred(entry, given, kwargs, saved)
        elif not _missing(entry.cls, accepted := _accepted(entry.cls, kwargs)):
            yield Fit(entry, accepted)


def _inferred(
    entry: models.Registered, given: Shapes, kwargs: Mapping[str, Any], saved: Sequence[Mapping[str, Any]]
) -> Iterator[Fit]:
    """The fit under the first prefix where `from_shapes` finds its own; what shapes can't tell is what was saved."""
    for _, view in fingerprints.views(given):
        try:
            found = entry.cls.from_shapes(view)  # type: ignore[attr-defined]
        except _MISFITS:
            continue
        if found is not None:
            merged = {**found, **_accepted(entry.cls, kwargs)}
            for name in _missing(entry.cls, merged):
                said = next((kept for kept in saved if name in kept), None)
                if said is not None:
                    merged[name] = said[name]
            yield Fit(entry, merged, _missing(entry.cls, merged))
            return


def _refuse_contradiction(
    entry: models.Registered, weights: Candidate, kwargs: Mapping[str, Any], saved: Sequence[Mapping[str, Any]]
) -> None:
    """Raise `InvalidSetting` for an argument that is given, and that the checkpoint kept with another value that fits
    its weights: they were trained with one of the two."""
    given = _accepted(entry.cls, kwargs)
    kept = {name: value for mapping in reversed(saved) for name, value in mapping.items() if name in given}
    differing = [name for name, value in kept.items() if value != given[name]]
    if not differing:
        return
    for fit in fits([entry], weights.shapes(), {**kwargs, **kept}, saved):
        if not fit.undecided and _built(fit, weights, {}, "", exactly=False) is not None:
            name = differing[0]
            raise InvalidSetting(
                f"SCORE_ARCHITECTURE_KWARGS says {name}={given[name]!r}, and the checkpoint kept {name}={kept[name]!r}",
                hint=f"Leave {name} out, to have what the checkpoint was trained with; or correct the checkpoint.",
            )


def _built(
    fit: Fit, weights: Candidate, given: Mapping[str, Any], source: str, exactly: bool = True
) -> Skeleton | None:
    """The architecture, if its keys and shapes are those of the weights: `exactly`, or at least all that it needs."""
    try:
        built, alignment = aligned(fit, weights, source)
    except ArchitectureBroken:
        if given and hasattr(fit.entry.cls, "from_shapes"):
            raise  # the arguments that were given are what is wrong
        return None
    except (PrefixAmbiguous, WeightsMismatch):
        return None
    return built if alignment.exact or (not exactly and alignment.loads) else None


def aligned(fit: Fit, weights: Candidate, source: str) -> tuple[Skeleton, Alignment]:
    """The class built, and how its keys match the weights'. Raises `ArchitectureBroken`, `PrefixAmbiguous`, or
    `WeightsMismatch` for flat parameters of another size."""
    built = skeleton(fit.entry.name, fit.entry.cls, fit.kwargs, source=source, inputs=fit.entry.inputs)
    given = flat_parameters.apart(built.module, weights).shapes()
    return built, align(shapes(built.module), given, tied=tied(built.module))


def _missing(cls: Callable[..., Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The parameters that have no default and no value."""
    return tuple(
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in kwargs
    )


def _accepted(cls: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = inspect.signature(cls).parameters
    return {name: value for name, value in kwargs.items() if name in names}


def _undecided(fit: Fit) -> ArchitectureUndecided:
    """The error that says what shapes can't tell, and what it may be."""
    hints = typing.get_type_hints(fit.entry.cls.__init__)
    choices = {name: typing.get_args(hints.get(name)) for name in fit.undecided}
    words = {name: found if found and isinstance(found[0], str) else () for name, found in choices.items()}
    lines = [f"{name}: {', '.join(words[name]) if words[name] else _shown(hints.get(name))}" for name in fit.undecided]
    example = ", ".join(f'"{name}": {_example(words[name])}' for name in fit.undecided)
    inferred = ", ".join(f"{name}={value!r}" for name, value in fit.kwargs.items())
    return ArchitectureUndecided(
        f"the weights are those of {fit.entry.name}({inferred}), and shapes can't tell its {_listed(fit.undecided)}",
        hint=f"Say what it was trained with: SCORE_ARCHITECTURE_KWARGS='{{{example}}}' (here an example); "
        "or name the class that it was trained as: SCORE_ARCHITECTURE=path/to/file.py:Class.",
        detail="\n".join(lines),
    )


def _example(words: tuple[str, ...]) -> str:
    return f'"{words[0]}"' if words else "1"


def _shown(hint: Any) -> str:
    return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("collections.abc.", "")  # type: ignore[return-value]


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _others(given: Shapes) -> str:
    """A remark on library architectures with the same keys and shapes that compute otherwise than torchvision's class,
    which the one in `models/` follows."""
    prints = fingerprints.exact(given)
    same = {each.structure for each in prints if each.name.startswith("torchvision:")}
    others = [each.name for each in prints if same and each.structure not in same]
    if not others:
        return ""
    return f"; {_listed(tuple(others))} would fit too and compute differently: set SCORE_ARCHITECTURE if it is that"


def _indexed(given: Shapes, kwargs: Mapping[str, Any]) -> Skeleton | None:
    """A provider's architecture: with all keys and shapes the same, or all but those of the head."""
    found, head, size = fingerprints.found(given)
    if not found:
        return None
    if not head:
        return _provided(found, kwargs, SOURCE)
    return _provided(found, {"num_classes": size, **kwargs}, f"{SOURCE}, all but those of {head}")


def _provided(found: list[Fingerprint], kwargs: Mapping[str, Any], source: str) -> Skeleton:
    """Build it. Those of several that print alike compute alike, and the first stands for all."""
    kinds = {each.structure: each for each in reversed(found)}
    if len(kinds) > 1:
        names = ", ".join(each.name for each in found[:12]) + (" ..." if len(found) > 12 else "")
        raise ArchitectureAmbiguous(
            f"{len(found)} architectures have exactly these keys and shapes, and compute differently: {names}",
            hint="Say which one it is: SCORE_ARCHITECTURE=<one of these names>.",
            choices=[{"architecture": each.name} for each in found if PROVIDERS[each.name.partition(":")[0]].installed],
        )
    here = next((each for each in found if PROVIDERS[each.name.partition(":")[0]].installed), None)
    if here is None:
        package = found[0].name.partition(":")[0]
        raise ProviderMissing(
            f"the weights are those of {found[0].name}, and {package} is not installed",
            hint=f"Install it ({installing(package)}), or put the class into models/.",
        )
    build = builder(here.name)
    assert build is not None
    return skeleton(here.name, build, kwargs, source=source)
