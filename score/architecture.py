"""Find the `nn.Module` for some weights: named by a setting, carried by the file, or recognised by keys and shapes."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from score import building
from score.align import Alignment, align, difference
from score.checkpoint import Candidate
from score.errors import (
    ArchitectureAmbiguous,
    ArchitectureBroken,
    ArchitectureNeeded,
    ArchitectureUnknown,
    ClassNotImportable,
    PrefixAmbiguous,
    WeightsMismatch,
)
from score.formats.contents import Contents
from score.settings import Settings
from score.trust import Trust, file_sha256


@dataclass(frozen=True, eq=False)
class Architecture:
    """The model's class, built without values, or a program that the file carries.

    `build()` makes the module afresh; `skeleton` is one made on the meta device (None for a program, which comes with
    its weights: then `program(device)` gives the module).
    """

    name: str
    source: str
    build: Callable[[], nn.Module] | None = None
    skeleton: nn.Module | None = None
    program: Callable[[torch.device], nn.Module] | None = None
    inputs: str | dict[str, str] | None = None


def find(contents: Contents, weights: Candidate | None, settings: Settings) -> Architecture:
    """The architecture, from the first of: the setting, the file's own program, the pickled module's class where the
    file is trusted, recognition. Raises a `LoadError` that says what was tried."""
    trust = Trust(settings.trust_code, settings.trust_sha256)
    if settings.architecture:
        return named(settings.architecture, settings.architecture_kwargs, settings.model_dir)
    if contents.program is not None:
        if contents.program.code:
            trust.require(
                contents.path, what="torch would unpickle or evaluate parts of it", imports=contents.program.code
            )
        return Architecture(contents.program.class_path, contents.format, program=contents.program.build)
    assert weights is not None, "files without a program have weights"
    design = contents.design
    if design is not None and (not design.code or trust.allows(contents.path)):
        return skeleton(design.name, design.build, {}, source=contents.format)
    if weights.class_path and trust.allows(contents.path):
        return _revived(contents, weights)
    found = recognise(weights)
    if found is not None:
        return found
    if weights.class_path:
        _refuse_module(contents, weights, trust)
    if design is not None:
        trust.require(contents.path, what=f"its class is in {design.name}, which it brings along", imports=design.code)
    raise ArchitectureNeeded(
        f"the weights were read ({len(weights.tensors)} tensors, {weights.parameters:,} parameters), "
        "but no registered architecture fits them",
        detail=_nearest(weights),
    )


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a module's state."""
    state = module.state_dict(keep_vars=True)
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


def tied(module: nn.Module) -> list[list[str]]:
    """Groups of names in a module's state that are one tensor."""
    groups: dict[int, list[str]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(value), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def match(architecture: Architecture, weights: Candidate | None, prefix: str | None = None) -> Alignment | None:
    """Align the weights with the architecture; None for a program, which comes with its own.

    Raises `WeightsMismatch` with a table of the differences.
    """
    if architecture.skeleton is None:
        return None
    assert weights is not None, "only a program can do without weights"
    wanted, given = shapes(architecture.skeleton), weights.shapes()
    alignment = align(wanted, given, tied=tied(architecture.skeleton), prefix=prefix)
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


def named(
    name: str, kwargs: Mapping[str, Any], folder: Path | None = None, source: str = "SCORE_ARCHITECTURE"
) -> Architecture:
    """A registered name, `package.module:Class`, or `path/to/file.py:Class` (relative to here or the model folder)."""
    registered = registered_models()
    if name in registered:
        entry = registered[name]
        return skeleton(entry.name, entry.cls, kwargs, source=source, inputs=entry.inputs)
    location, _, attribute = name.rpartition(":")
    if not location:
        raise ArchitectureUnknown(f"no architecture is registered as {name!r}", detail=_registered_names(registered))
    module = _from_file(Path(location), folder) if location.endswith(".py") else _from_package(location)
    cls = getattr(module, attribute, None)
    if not callable(cls):
        classes = [
            key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        raise ArchitectureUnknown(
            f"{location} has no class {attribute!r}; its modules are: {', '.join(classes) or 'none'}"
        )
    return skeleton(name, cls, kwargs, source=source)


def registered_models() -> dict[str, models.Registered]:
    """All of `models/`. A file there that can't be imported is an error that names it."""
    try:
        return models.registered()
    except Exception as error:  # noqa: BLE001  # users' files raise anything
        raise ArchitectureBroken(
            f"a file in models/ can't be imported: {type(error).__name__}: {error}",
            hint="Mend the file, or take it out of models/.",
            detail=_where(error),
        ) from None


def skeleton(
    name: str,
    cls: Callable[..., Any],
    kwargs: Mapping[str, Any],
    *,
    source: str,
    inputs: str | dict[str, str] | None = None,
) -> Architecture:
    """Build a class on the meta device, which costs no memory and no time; on the CPU if it can't be built there."""

    def build() -> nn.Module:
        module = cls(**kwargs)
        if not isinstance(module, nn.Module):
            raise ArchitectureBroken(f"{name} makes a {type(module).__name__}, not a torch.nn.Module")
        return module

    try:
        module = building.on_meta(build)
    except ArchitectureBroken:
        raise
    except Exception:  # noqa: BLE001  # a constructor may need real values; if it is broken it fails again below
        try:
            module = building.for_real(build, seed=0)
        except Exception as error:  # noqa: BLE001
            raise ArchitectureBroken(
                f"{name}({_shown(kwargs)}) can't be built: {type(error).__name__}: {error}", detail=_where(error)
            ) from None
    return Architecture(name, source, build, module, inputs=inputs)


def recognise(weights: Candidate) -> Architecture | None:
    """The one registered architecture whose keys and shapes are exactly those of the weights.

    Raises `ArchitectureAmbiguous` if there are several; returns None if there is none.
    """
    fitting = [found for found in _buildable() if _fits(found, weights)]
    if len(fitting) > 1:
        names = ", ".join(found.name for found in fitting)
        raise ArchitectureAmbiguous(f"{len(fitting)} registered architectures fit the weights: {names}")
    return fitting[0] if fitting else None


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


def _nearest(weights: Candidate) -> str:
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


def _revived(contents: Contents, weights: Candidate) -> Architecture:
    """A pickled module of a trusted file, with its own class."""
    assert contents.revive is not None, "modules come from pickles"
    revive = contents.revive

    def program(device: torch.device) -> nn.Module:
        found = revive()
        for part in filter(None, weights.path.split(".")):
            found = (
                found[int(part)]
                if isinstance(found, (list, tuple))
                else (found[part] if isinstance(found, dict) else getattr(found, part))
            )
        if not isinstance(found, nn.Module):
            raise ArchitectureBroken(f"{weights.class_path} is not a torch.nn.Module")
        return found.requires_grad_(False).to(device)

    return Architecture(weights.class_path, "the pickled module, trusted", program=program)


def _refuse_module(contents: Contents, weights: Candidate, trust: Trust) -> None:
    """A pickled module whose code may not run: say so, or that its class isn't even here."""
    read = f"its weights were read intact ({len(weights.tensors)} tensors, {weights.parameters:,} parameters)"
    missing = [name for name in contents.unsafe_globals if not _installed(name)]
    if weights.class_path in missing:
        raise ClassNotImportable(
            f"{contents.path.name} is a pickled module of class {weights.class_path}, which is not here; {read}",
            detail="\n".join(f"not importable: {name}" for name in missing),
        )
    trust.require(
        contents.path,
        what=f"a pickled module of class {weights.class_path} ({read}); serving it as it is imports its class",
        imports=contents.unsafe_globals,
    )


def _installed(path: str) -> bool:
    """Whether the top package of a class path is installed, without importing what the file names."""
    top = path.partition(".")[0]
    try:
        return top != "__main__" and importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _from_file(location: Path, folder: Path | None) -> Any:
    tried = [location] if location.is_absolute() or folder is None else [location, folder / location]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise ArchitectureUnknown(f"there is no file {' or '.join(map(str, tried))}")
    name = f"score_architecture_{file_sha256(path)[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickled classes look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001  # users' files raise anything
        raise ArchitectureBroken(
            f"{path} can't be imported: {type(error).__name__}: {error}", hint="Mend the file.", detail=_where(error)
        ) from None
    return module


def _from_package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  # a package raises anything at import
        raise ArchitectureUnknown(f"{name} can't be imported: {type(error).__name__}: {error}") from None


def _registered_names(registered: Mapping[str, Any]) -> str:
    return "registered: " + (", ".join(sorted(registered)) or "none")


def _shown(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in kwargs.items())


def _where(error: BaseException) -> str:
    """The last place in the user's own code that an error came from."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "importlib" not in file and "/torch/" not in file and not file.endswith("architecture.py"):
            last = f"{file}:{trace.tb_lineno} in {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return last
