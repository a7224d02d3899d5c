"""Find the `nn.Module` for some weights: named by a setting, carried by the file, or recognised; and match the two."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from score.architectures import (
    flat_parameters,
    hf_config,
    local_code,
    on_graph,
    published,
    recognition,
    torch_ao_layers,
    torch_layers,
)
from score.architectures.hparams import arguments
from score.architectures.import_string import named
from score.architectures.meta_init import Architecture, Complete, Skeleton, shapes, skeleton, tied
from score.architectures.recognition import by_name, fitting, recognise
from score.architectures.suggest import nearest
from score.architectures.yolo import network
from score.errors import (
    ArchitectureBroken,
    ArchitectureNeeded,
    ArchitectureUndecided,
    ClassNotImportable,
    UntrustedCode,
    WeightsMismatch,
    one_line,
)
from score.formats import toolkits
from score.formats.base import Adapter, Checkpoint, PickledObjects, Program
from score.imports import models_folder
from score.settings import Settings
from score.weights import adapters
from score.weights.adapters import Adapted
from score.weights.align import Alignment, align, difference
from score.weights.select import Candidate
from score.weights.trust import Trust


def find(checkpoint: Checkpoint, weights: Candidate | None, settings: Settings) -> Architecture:
    """The architecture, from the first of: the setting, a trusted Python file beside the checkpoint, the file's own
    program or class, the pickled module's class where the file is trusted, recognition.

    Arguments that the checkpoint saved are tried for each class. Raises a `LoadError` that says what was tried.
    """
    trust = Trust(settings.trust_code, settings.trust_sha256)
    kwargs, saved = settings.architecture_kwargs, arguments(checkpoint.metadata)
    if settings.architecture:
        entry = named(settings.architecture, settings.model_dir)
        return by_name(entry, kwargs, saved, weights, "SCORE_ARCHITECTURE")
    factory = hf_config.factory_of(checkpoint)
    brought = factory is not None and bool(factory.code) and checkpoint.path.is_dir()  # the files beside are its own
    if weights is not None and not brought and (near := local_code.classes(checkpoint, trust)):
        found = fitting(near, weights, kwargs, saved, "a trusted file beside the checkpoint")
        if found is not None:
            return found
    if isinstance(checkpoint, Program):
        if checkpoint.code:
            trust.require(
                checkpoint.origin, what="torch would unpickle or evaluate parts of it", imports=checkpoint.code
            )
        described = on_graph.described_by(checkpoint)
        if described is not None:
            build = checkpoint.build
            return Complete(
                on_graph.name_of(described), checkpoint.format, lambda device: on_graph.built(build(device), described)
            )
        return Complete(checkpoint.class_path, checkpoint.format, checkpoint.build)
    assert weights is not None, "files without a program have weights"
    if factory is not None and (not factory.code or trust.allows(checkpoint.origin)):
        return skeleton(factory.name, factory.build, {}, source=checkpoint.format)
    if weights.class_path and isinstance(checkpoint, PickledObjects) and trust.allows(checkpoint.origin):
        return _pickled_module(checkpoint, weights)
    flat_parameters.refuse(checkpoint, weights)
    if (known := published.of(weights.shapes())) is not None:
        return skeleton(known.name, known.build, kwargs, source=recognition.SOURCE)
    layers, why_not = _of_torch_layers(weights, kwargs)
    if layers is not None:
        return layers
    try:
        if (found := recognise(weights, kwargs, saved)) is not None:
            return found
    except ArchitectureUndecided:
        if not weights.class_path and factory is None:  # else its own class says what shapes can't tell
            raise
    if weights.class_path:
        try:
            _refuse_module(
                checkpoint, weights, trust, why_not if torch_layers.is_of_a_library(weights.class_path) else ""
            )
        except (ClassNotImportable, UntrustedCode) as error:
            error.detail = "\n".join([error.detail, *local_code.untrusted(checkpoint, trust)])
            raise
    if factory is not None:
        trust.require(
            checkpoint.origin, what=f"its class is in {factory.name}, which it brings along", imports=factory.code
        )
    written = toolkits.of(checkpoint.neighbours, checkpoint.metadata)
    raise ArchitectureNeeded(
        f"the weights were read ({len(weights.tensors)} tensors, {weights.parameters:,} parameters), "
        "but no architecture fits them" + (f"; they are {written.name}'s: {one_line(written.says)}" if written else ""),
        hint=one_line(written.way_out) if written else None,
        detail="\n".join([nearest(weights), *local_code.untrusted(checkpoint, trust)]),
    )


def adapted(
    architecture: Skeleton, weights: Candidate, adapter: Adapter, prefix: str | None = None, *, apart: bool = False
) -> Adapted:
    """The weights with an adapter merged into them, or beside them where that can be. Raises `AdapterUnsupported`."""
    groups = [list(group) for group in tied(architecture.module)]
    alignment = align(shapes(architecture.module), weights.shapes(), tied=groups, prefix=prefix)
    return adapters.applied(architecture.module, groups, alignment, weights, adapter, apart=apart)


def match(architecture: Skeleton, weights: Candidate, prefix: str | None = None) -> Alignment:
    """Align the weights with the architecture. Raises `WeightsMismatch` with a table of the differences."""
    wanted, given = shapes(architecture.module), weights.shapes()
    alignment = align(wanted, given, tied=tied(architecture.module), prefix=prefix)
    if alignment.loads:
        return alignment
    hint = WeightsMismatch.hint
    if alignment.misshaped and not alignment.missing:
        hint = "Set SCORE_ARCHITECTURE_KWARGS so that the sizes agree (the shapes above say which)."
    raise WeightsMismatch(
        f"{architecture.name} does not fit the weights at {weights.path or 'the root'!r}: "
        f"{len(alignment.missing)} keys missing, {len(alignment.misshaped)} mis-shaped, "
        f"{len(alignment.unexpected)} unexpected, {len(alignment.mapping) - len(alignment.misshaped)} match",
        hint=hint,
        detail=difference(alignment, wanted, given),
    )


def _pickled_module(checkpoint: PickledObjects, weights: Candidate) -> Complete:
    """A pickled module of a trusted file, with its own class."""

    def build(device: torch.device) -> nn.Module:
        found = checkpoint.load_trusted()
        for part in filter(None, weights.path.split(".")):
            found = (
                found[int(part)]
                if isinstance(found, (list, tuple))
                else (found[part] if isinstance(found, dict) else getattr(found, part))
            )
        if not isinstance(found, nn.Module):
            raise ArchitectureBroken(f"{weights.class_path} is not a torch.nn.Module")
        return found.requires_grad_(False).to(device).eval()

    return Complete(weights.class_path, "the pickled module, trusted", build)


def _of_torch_layers(weights: Candidate, kwargs: Mapping[str, Any]) -> tuple[Complete | None, str]:
    """A pickled module of torch's own layers, or of a known library's blocks, which needs no code from the file; or
    what stands in the way."""
    if weights.module is None:
        return None, ""
    try:
        module = torch_layers.rebuild(weights.module)
    except torch_layers.NotPlain as error:
        return None, str(error)
    source = "the pickled module, of torch's own layers"
    if isinstance(module, network.Network):
        module = network.ready(module, weights.module, kwargs)
        source = "the pickled module, of a YOLO network's blocks"
    elif torch_layers.is_of_a_library(weights.class_path):
        source = "the pickled module, of its library's blocks as they are known here"
    if torch_ao_layers.is_quantised(module):
        source = "the pickled module, of torch's own quantised layers, which compute on the CPU"
        return Complete(weights.class_path, source, lambda _device: module.eval()), ""
    return Complete(weights.class_path, source, lambda device: module.to(device).eval()), ""


def _refuse_module(checkpoint: Checkpoint, weights: Candidate, trust: Trust, why: str) -> None:
    """A pickled module whose code may not run: say so, or that its class isn't even here; and `why` it was not rebuilt
    without."""
    read = f"its weights were read intact ({len(weights.tensors)} tensors, {weights.parameters:,} parameters)"
    missing = [name for name in checkpoint.unsafe_globals if not _installed(name)]
    if weights.class_path in missing:
        raise ClassNotImportable(
            f"{checkpoint.path.name} is a pickled module of class {weights.class_path}, which is not here; {read}",
            detail="\n".join(
                [*(["not rebuilt: " + why] if why else []), *(f"not importable: {each}" for each in missing)]
            ),
        )
    trust.require(
        checkpoint.origin,
        what=f"a pickled module of class {weights.class_path} ({read}); serving it as it is imports its class",
        imports=checkpoint.unsafe_globals,
    )


def _installed(path: str) -> bool:
    """Whether the top package of a class path is installed, without importing what the file names."""
    top = path.partition(".")[0]
    if (ours := models_folder.holds(path)) is not None:
        return ours
    try:
        return top != "__main__" and importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False
