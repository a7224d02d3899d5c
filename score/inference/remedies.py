"""The settings that mend an error, tried before anybody is told: what loads a checkpoint that did not.

Nothing is run that was not trusted: a Python file beside the checkpoint is only read, for whether it defines what the
weights are of.
"""

import ast
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from score.architectures import hf_config, local_code, sizes
from score.architectures.import_string import named
from score.architectures.recognition import registered_models
from score.errors import (
    ArchitectureBroken,
    ArchitectureNeeded,
    ArchitectureUndecided,
    ClassNotImportable,
    LoadError,
    UntrustedCode,
    WeightsMismatch,
)
from score.inference.pipeline import load_model
from score.settings import Settings, option
from score.weights.opened import Opened, open_weights
from score.weights.select import Candidate
from score.weights.trust import Trust

MOST_TRIALS = 8
MOST_BYTES = 4_000_000_000  # of a model folder; whoever waits for a larger one need not wait for trials
Setting = dict[str, Any]
_OF_CLASSES = (
    *(ArchitectureBroken, ArchitectureNeeded, ArchitectureUndecided, ClassNotImportable, UntrustedCode),
    WeightsMismatch,
)


def find(error: LoadError, settings: Settings) -> Setting | None:
    """The first of the settings that may mend an error with which the checkpoint loads; one that allows code, which
    can't be tried, where the code defines what the weights are of. None where nothing is known to help."""
    if _bytes(settings.model_dir) > MOST_BYTES:
        return None
    for tried, choice in enumerate(_choices(error, settings)):
        if "trust" in choice or (tried < MOST_TRIALS and _loads(settings, choice)):
            return dict(choice)
    return None


def _bytes(path: Path | None) -> int:
    if path is None or not path.exists():
        return 0
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())


def command(words: Sequence[str], path: Path | str, said: Sequence[str], changed: Mapping[str, Any]) -> str:
    """`words`, a command and what stands before the checkpoint, with what was `said` and what is `changed`."""
    options: list[str] = []
    for name, value in changed.items():
        if name == "architecture_kwargs":
            options += [word for key, each in value.items() for word in ("--kwargs", f"{key}={_text(each)}")]
        elif name != "path":
            options += [option("trust_sha256") if name == "trust" else option(name), _text(value)]
    return shlex.join([*words, str(changed.get("path", path)), *said, *options])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _loads(settings: Settings, choice: Mapping[str, Any]) -> bool:
    try:
        if "path" in choice:  # what else it needs is said next
            open_weights(settings.model_copy(update={"model_dir": Path(choice["path"])}))
        else:
            load_model(settings.model_copy(update=dict(choice)))
    except LoadError:
        return False
    return True


def _choices(error: LoadError, settings: Settings) -> Iterator[Mapping[str, Any]]:
    yield from error.choices
    if not isinstance(error, _OF_CLASSES):
        return
    try:
        opened = open_weights(settings)
    except LoadError:
        return
    if opened.weights is None:
        return
    factory = hf_config.factory_of(opened.checkpoint)
    if factory is not None and factory.code and opened.checkpoint.path.is_dir():  # its own files are trusted as one
        yield {"trust": str(opened.checkpoint.origin)}
        return
    kwargs, given = settings.architecture_kwargs, opened.weights.shapes()
    if settings.architecture:
        try:
            entry = named(settings.architecture, settings.model_dir)
        except LoadError:
            return
        if (said := sizes.fitting(entry.cls, kwargs, given)) is not None:
            yield {"architecture_kwargs": said}
        return
    trust = Trust(settings.trust_code, settings.trust_sha256)
    for entry in (*registered_models().values(), *local_code.classes(opened.checkpoint, trust)):
        if (said := sizes.fitting(entry.cls, kwargs, given)) is not None:
            yield (
                {"architecture_kwargs": said, "architecture": entry.name}
                if ".py:" not in entry.name
                else {"architecture_kwargs": said}
            )
    yield from ({"trust": str(file)} for file in _defining(opened, opened.weights, trust))


def _defining(opened: Opened, weights: Candidate, trust: Trust) -> list[Path]:
    """The files beside a checkpoint, not trusted yet, with a class that has the weights' modules, or the pickled
    module's name."""
    wanted = weights.class_path.rpartition(".")[2] if weights.class_path else ""
    tops = {part for key in weights.tensors for part in key.split(".")[:-1]}
    found = []
    for file in local_code.files(opened.checkpoint):
        if trust.allows(file):
            continue
        for name, attributes in _classes(file).items():
            if name == wanted or (not wanted and attributes and attributes <= tops):
                found.append(file)
                break
    return found


def _classes(file: Path) -> dict[str, set[str]]:
    """The classes in a file that derive from something, and the modules that each makes its own, by their names."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {
        node.name: {
            target.attr
            for each in ast.walk(node)
            if isinstance(each, ast.Assign) and isinstance(each.value, ast.Call)
            for target in each.targets
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
            and _may_hold_weights(each.value)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.bases
    }  # fmt: skip


_WITHOUT = frozenset(
    (
        *("ReLU", "GELU", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "LeakyReLU", "SiLU", "Dropout", "Dropout2d"),
        *("Flatten", "Unflatten", "Identity", "Upsample", "MaxPool1d", "MaxPool2d", "AvgPool1d", "AvgPool2d"),
        *("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "CrossEntropyLoss", "MSELoss", "BCELoss"),
        *("BCEWithLogitsLoss", "NLLLoss", "L1Loss"),
    )
)


def _may_hold_weights(call: ast.Call) -> bool:
    """Whether what is called may make a module with weights: `nn.Linear(...)`, and not `nn.ReLU()` or `len(...)`."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name[:1].isupper() and name not in _WITHOUT
