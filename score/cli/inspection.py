"""What a file is and holds, as one object: `score inspect`. Runs nothing from it, and reads no tensor's values."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from score.architectures import fingerprints, hf_config
from score.architectures import published as published_models
from score.cli.render_text import Screen, facts
from score.errors import (
    ArchitectureAmbiguous,
    ArchitectureUndecided,
    LoadError,
    NoWeights,
    ProviderMissing,
    SeveralWeights,
    one_line,
    printable,
)
from score.formats._io import integrity, parts
from score.formats._pickle import global_names
from score.formats.base import Checkpoint, Program
from score.settings import Settings
from score.weights import anatomy, quantised, select
from score.weights.align import common_wrapper
from score.weights.hashing import sha256
from score.weights.locate import find_checkpoint
from score.weights.opened import Opened
from score.weights.progress import Track
from score.weights.select import Candidate


def inspect(path: Path, settings: Settings) -> dict[str, Any]:
    """The object that `score inspect --json` prints. A refused file gives `path`, `format` and `error` instead."""
    return look(path, settings)[0]


def look(path: Path, settings: Settings) -> tuple[dict[str, Any], Opened | None]:
    """`inspect`, and what was opened for it; None where the file is refused."""
    format = None
    try:
        found = find_checkpoint(settings)
        path, format = found.path, found.format
        opened = Opened(found.opened(settings.read), found.root, settings.weights)
        return _describe(opened), opened
    except LoadError as error:
        found_names = global_names.names(path) if path.exists() else []
        refused = {"path": printable(str(path)), "format": format, "error": error.as_dict()}
        return refused | {"unsafe_globals": [printable(name) for name in found_names]}, None


def _describe(opened: Opened) -> dict[str, Any]:
    checkpoint = opened.checkpoint
    try:
        weights = opened.chosen
        path = weights.path if weights else ""
    except SeveralWeights:
        weights, path = None, None
    except NoWeights:
        weights = select.adapter(checkpoint)
        if weights is None:
            quantised.refuse(checkpoint, None)
            raise
        path = weights.path
    quantised_by = quantised.scheme(checkpoint, weights)
    metadata = dict(checkpoint.metadata) | ({"quantised": quantised_by[0]} if quantised_by else {})
    inside = sorted(item for item in checkpoint.path.rglob("*") if item.is_file()) if checkpoint.path.is_dir() else []
    files = inside or [checkpoint.path]
    origin = files if checkpoint.packed is None else parts.of(checkpoint.origin) or [checkpoint.origin]
    architecture, kwargs = _architecture(checkpoint, weights)
    return {
        "path": printable(str(checkpoint.shown)),
        "format": checkpoint.format,
        "bytes": sum(file.stat().st_size for file in origin),
        "sha256": sha256(checkpoint.origin),
        "weights_path": path,
        "tensors": len(weights.tensors) if weights else 0,
        "parameters": weights.parameters if weights else 0,
        "dtypes": weights.dtypes if weights else {},
        "prefix": common_wrapper(weights.tensors) if weights else "",
        "candidates": [_candidate(candidate) for candidate in select.candidates(checkpoint)],
        "unsafe_globals": _unsafe(checkpoint),
        "architecture": architecture,
        "metadata": metadata,
        "architecture_kwargs": kwargs,
        "known_as": _known_as(weights),
        "damaged": [printable(name) for file in files for name in integrity.damaged(file)],
        "tensor_list": _tensors(weights) if weights else [],
    }


def _tensors(weights: Candidate) -> list[dict[str, Any]]:
    return [
        {"name": printable(name), "dtype": ref.dtype_name, "shape": list(ref.shape), "bytes": ref.nbytes}
        for name, ref in weights.tensors.items()
    ]


def _known_as(weights: Candidate | None) -> str | None:
    """What torchvision, timm or transformers calls an architecture of these keys and shapes, whatever its head."""
    names = [each.name for each in fingerprints.found(weights.shapes())[0]] if weights else []
    return next((name for name in names if name.startswith("torchvision:")), next(iter(names), None))


def _unsafe(checkpoint: Checkpoint) -> list[str]:
    """What reading met, and what else any pickle of the file names."""
    return [
        printable(name) for name in dict.fromkeys((*checkpoint.unsafe_globals, *global_names.names(checkpoint.path)))
    ]


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "path": candidate.path,
        "kind": candidate.kind,
        "tensors": len(candidate.tensors),
        "parameters": candidate.parameters,
        "bytes": candidate.nbytes,
    }


def _architecture(checkpoint: Checkpoint, weights: Candidate | None) -> tuple[str | None, dict[str, Any]]:
    """The class that the file names, or the one that it is recognised as, with the arguments that it is built with."""
    if isinstance(checkpoint, Program):
        return checkpoint.class_path, {}
    if weights is not None and select.is_adapter(weights):
        base = checkpoint.metadata.get("base_model")
        return f"an adapter ({checkpoint.metadata.get('adapter', 'LoRA')})" + (f" of {base}" if base else ""), {}
    if (factory := hf_config.factory_of(checkpoint)) is not None:
        return factory.name, {}
    if weights is None:
        return None, {}
    if weights.class_path:
        return weights.class_path, {}
    if (published := published_models.of(weights.shapes())) is not None:
        return published.name, {}
    from score.architectures import flat_parameters, recognition  # whose classes are torch's modules

    if flat_parameters.among(weights.tensors):
        return None, {}
    try:
        found = recognition.recognise(weights)
    except (ArchitectureAmbiguous, ArchitectureUndecided, ProviderMissing):
        return None, {}
    return (found.name, dict(found.kwargs)) if found else (None, {})


def screen(found: dict[str, Any], opened: Opened, track: Track) -> Screen:
    """For people, what `inspect` found and more: the tree, where the bytes are, and what is odd, for which all values
    are read, one tensor at a time."""
    checkpoint = opened.checkpoint
    try:
        weights = opened.chosen
    except SeveralWeights:
        weights = None
    except NoWeights:
        weights = select.adapter(checkpoint)
    if weights is None or not weights.tensors:
        return Screen(_printable(facts(found)), (), (), (), ())
    tree = anatomy.tree_of(weights.tensors)
    others = [each for each in select.candidates(checkpoint) if each.path != weights.path]
    why = [] if found["architecture"] else _unrecognised(checkpoint, weights)
    odd = [f"{name} is damaged: its checksum is not that of its bytes" for name in found["damaged"]]
    odd += anatomy.oddities(weights, found["bytes"], others, track)
    quantised_by = quantised.scheme(checkpoint, weights)
    if quantised_by:
        odd = [line for line in odd if "optimizer state" not in line]  # what is beside the weights are more of them
        why = [_how_served(opened, quantised_by[0])]
    return Screen(  # names are the file's own, and none may steer a terminal
        _printable(facts(found)),
        [replace(line, name=one_line(line.name)) for line in anatomy.lines(tree)],
        [(one_line(name), nbytes) for name, nbytes in anatomy.shares(tree)],
        list(map(one_line, odd)),
        list(map(one_line, why)),
    )


def _how_served(opened: Opened, quantised_by: str) -> str:
    try:
        numbers = opened.weights
    except LoadError as error:
        return error.message
    if numbers is not None and numbers.module is not None:
        return f"quantised by {quantised_by}; served as it is, in integers, or as numbers in a class that is named"
    dtypes = ", ".join(numbers.dtypes) if numbers else "they are"
    return f"quantised by {quantised_by}; served as the numbers that they stand for ({dtypes})"


def _printable(facts: dict[str, str]) -> dict[str, str]:
    return {one_line(name): one_line(value) for name, value in facts.items()}


def _unrecognised(checkpoint: Checkpoint, weights: Candidate) -> list[str]:
    """Why the weights' class is not known, or what comes nearest to it."""
    from score.architectures import flat_parameters, recognition
    from score.architectures.suggest import nearest

    try:
        flat_parameters.refuse(checkpoint, weights)
        recognition.recognise(weights)
    except (ArchitectureAmbiguous, ArchitectureUndecided, NoWeights, ProviderMissing) as error:
        return [error.message, *error.detail.splitlines(), error.hint]
    return nearest(weights).partition("\nthe weights:")[0].splitlines()
