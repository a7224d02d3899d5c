"""`score package`: a folder that is ready to be registered and deployed.

OUT/model/            what to register: the weights, score.toml, and SHA256SUMS that are checked at each load
OUT/deployment.yml    filled in for it
OUT/request.json      a request that it answers, where its inputs are known
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from score.architectures.import_string import located
from score.architectures.recognition import registered_models
from score.cli import deployment
from score.cli.conversion import to_safetensors
from score.inference import infer_signature
from score.inference.pipeline import load_model
from score.inference.predictor import Predictor
from score.inference.tuning import tuned_file
from score.settings import TOML_NAME, Settings, variable
from score.weights import checksums
from score.weights.progress import Track

# What the folder itself says, and what is the deployment's own business.
_NOT_CARRIED = {
    *("model_dir", "checkpoint", "weights", "prefix", "architecture", "architecture_kwargs", "inputs"),
    *("device", "read", "max_queue", "scoring_timeout_ms", "labels", "image"),
}


@dataclass(frozen=True)
class Package:
    """What was written: the folder, its files, and what the reader ought to know."""

    folder: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def package(settings: Settings, output: Path, endpoint: str, image: str | None, track: Track) -> Package:
    """Write the folder. The model is loaded first, so what is packaged is known to load; raises its `LoadError`."""
    served = load_model(settings)
    source = served.checkpoint
    assert source is not None, "load_model says where the checkpoint is"
    name = served.report.architecture
    if settings.architecture is None and ".py:" in name:  # a trusted file beside the checkpoint, which goes along
        beside = source if source.is_dir() else source.parent
        settings = settings.model_copy(update={"architecture": str(beside / name)})
    model = output / "model"
    model.mkdir(parents=True)
    notes: list[str] = []
    variables = _variables(settings)
    named = _architecture(served, settings)
    if named is None:
        _copy(source, model)  # it brings its own class or graph: as it is
        packaged = model / source.name
    else:
        packaged = model / "model.safetensors"
        to_safetensors(settings, packaged, track)
        variables |= _bring_code(settings, model)
        recipe = source.parent / "preprocessor_config.json"
        if recipe.is_file():
            shutil.copyfile(recipe, model / recipe.name)
    (model / TOML_NAME).write_text(_toml(served, settings, named))
    _bring_tuned(served, source, packaged)
    checksums.write(model, [file for file in model.rglob("*") if file.is_file()])
    name = deployment.model_name(settings.model_dir or source)
    given = {"endpoint": endpoint or name, "deployment": "blue", "model": name, "path": "model"}
    (output / "deployment.yml").write_text(
        deployment.filled_in(deployment.template(), image=image, variables=variables, **given)
    )
    if not served.signature.known:
        notes.append("no request.json: nothing says what the model takes; set SCORE_INPUTS and package it again")
    else:
        (output / "request.json").write_bytes(sample_request(served) + b"\n")
    if "SCORE_TRUST_CODE" in variables:
        notes.append("deployment.yml trusts all code in the folder, as SCORE_TRUST_CODE=true said")
    return Package(output, tuple(sorted(file for file in output.rglob("*") if file.is_file())), tuple(notes))


def _bring_tuned(served: Predictor, source: Path, packaged: Path) -> None:
    """What was tuned for the checkpoint, bound to what it is packaged as: the same weights."""
    found = tuned_file.folder_of(source)
    if served.running.source != tuned_file.NAME or not found.is_dir():
        return
    folder = tuned_file.folder_of(packaged)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(found, folder)
    said = json.loads((folder / tuned_file.NAME).read_text())
    tuned_file.write(folder, packaged, infer_signature.device_of(served.module), said)


def sample_request(served: Predictor) -> bytes:
    """A request with one made-up row that the model answers, as JSON."""
    values = infer_signature.as_lists(infer_signature.synthetic(served.signature))
    return orjson.dumps({"data": next(iter(values.values()))} if len(values) == 1 else {"inputs": values})


def _architecture(served: Predictor, settings: Settings) -> str | None:
    """The name by which the weights alone find their class again; None where the file brings its own."""
    name = served.report.architecture
    return settings.architecture or (name if name in registered_models() else None)


def _variables(settings: Settings) -> dict[str, str]:
    """The settings of this run that a model folder can't carry, as the deployment's environment variables."""
    carried: dict[str, str] = {}
    for name in sorted(settings.model_fields_set - _NOT_CARRIED):
        value = getattr(settings, name)
        text = " ".join(sorted(value)) if isinstance(value, frozenset) else str(value)
        carried[variable(name)] = text.lower() if isinstance(value, bool) else text
    return carried


def _bring_code(settings: Settings, model: Path) -> dict[str, str]:
    """The variables that name a class outside the registry, which score.toml may not; its file is copied along."""
    location, _, attribute = (settings.architecture or "").rpartition(":")
    if not location:
        return {}
    if not location.endswith(".py"):
        return {"SCORE_ARCHITECTURE": f"{location}:{attribute}"}
    source = located(Path(location), settings.model_dir)
    shutil.copyfile(source, model / source.name)
    return {"SCORE_ARCHITECTURE": f"{source.name}:{attribute}"}


def _copy(path: Path, model: Path) -> None:
    """The checkpoint's own files, whatever their names, without links."""
    if path.is_file():
        shutil.copyfile(path, model / path.name)
        return
    for file in (item for item in path.rglob("*") if item.is_file() and not item.is_symlink()):
        target = model / path.name / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _toml(served: Predictor, settings: Settings, named: str | None) -> str:
    """score.toml: what this run was told, and what it found out."""
    values: dict[str, Any] = {"labels": list(served.task.labels)}
    if isinstance(settings.image, dict):
        values["image"] = json.dumps(settings.image)
    elif settings.image:
        values["image"] = settings.image
    if named is None:
        values["weights"] = settings.weights or ""
    else:
        values["architecture"] = named if ":" not in named else ""
        values["architecture_kwargs"] = json.dumps(settings.architecture_kwargs or "")
    values["prefix"] = settings.prefix or ""
    values["inputs"] = _inputs(served, settings, named)
    lines = [f"# Written by score package. Loaded as {served.report.architecture} from {served.report.format}."]
    lines += [f"{name} = {json.dumps(value)}" for name, value in values.items() if value not in ("", '""', [])]
    return "\n".join(lines) + "\n"


def _inputs(served: Predictor, settings: Settings, named: str | None) -> str:
    """What the model takes, as SCORE_INPUTS has it; empty where the file says so itself."""
    if settings.inputs:
        return settings.inputs if isinstance(settings.inputs, str) else json.dumps(settings.inputs)
    if named is None or not served.signature.known or served.signature.guessed:
        return ""
    specs = {spec.name: str(spec) for spec in served.signature.inputs if spec.required}
    return next(iter(specs.values())) if len(specs) == 1 else json.dumps(specs)
