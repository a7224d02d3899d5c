"""Recognise which registered architecture some weights belong to, by their keys and shapes."""

import inspect

import models
from score.align import align
from score.building import Architecture, shapes, skeleton, tied, where
from score.checkpoint import Candidate
from score.errors import ArchitectureAmbiguous, ArchitectureBroken, PrefixAmbiguous


def recognise(weights: Candidate) -> Architecture | None:
    """The one registered architecture whose keys and shapes are exactly those of the weights.

    Raises `ArchitectureAmbiguous` if there are several; returns None if there is none.
    """
    fitting = [found for found in _buildable() if _fits(found, weights)]
    if len(fitting) > 1:
        names = ", ".join(found.name for found in fitting)
        raise ArchitectureAmbiguous(f"{len(fitting)} registered architectures fit the weights: {names}")
    return fitting[0] if fitting else None


def nearest(weights: Candidate) -> str:
    """The registered architectures by how many of their keys match, best first."""
    rows = []
    for candidate in _buildable():
        assert candidate.skeleton is not None
        wanted = shapes(candidate.skeleton)
        try:
            alignment = align(wanted, weights.shapes(), tied=tied(candidate.skeleton))
        except PrefixAmbiguous:
            continue
        matched = len(alignment.mapping) - len(alignment.misshaped)
        rows.append((matched / max(len(wanted), 1), f"{candidate.name}: {matched} of {len(wanted)} keys match"))
    lines = [line for _, line in sorted(rows, reverse=True)[:5]]
    keys = [f"{name} {list(tensor.shape)}" for name, tensor in list(weights.tensors.items())[:8]]
    more = [f"... and {len(weights.tensors) - 8:,} more"] if len(weights.tensors) > 8 else []
    return "\n".join(["registered architectures:", *lines, "the weights:", *keys, *more])


def registered_models() -> dict[str, models.Registered]:
    """All of `models/`. A file there that can't be imported is an error that names it."""
    try:
        return models.registered()
    except Exception as error:  # noqa: BLE001  # users' files raise anything
        raise ArchitectureBroken(
            f"a file in models/ can't be imported: {type(error).__name__}: {error}",
            hint="Mend the file, or take it out of models/.",
            detail=where(error),
        ) from None


def _buildable() -> list[Architecture]:
    """Every registered architecture that builds with its defaults."""
    found = []
    for entry in registered_models().values():
        required = [
            parameter
            for parameter in inspect.signature(entry.cls).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if not required:
            found.append(
                skeleton(entry.name, entry.cls, {}, source="recognised by keys and shapes", inputs=entry.inputs)
            )
    return found


def _fits(candidate: Architecture, weights: Candidate) -> bool:
    assert candidate.skeleton is not None
    try:
        return align(shapes(candidate.skeleton), weights.shapes(), tied=tied(candidate.skeleton)).exact
    except PrefixAmbiguous:
        return False
