"""`mlflow`: a folder with an `MLmodel` and a flavor that holds a PyTorch model; its inner checkpoint is what is served,
without mlflow, and without the environment that the folder describes.
"""

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from score.errors import MalformedFile, UnsupportedFormat
from score.formats import _mlflow_signature, hf_dir
from score.formats._io.folder import contained, within
from score.formats._mlflow_flavors import FLAVORS, Place
from score.formats.base import Checkpoint, PickledObjects
from score.formats.probe import Probe

NAME = "mlflow"
PRIORITY = 0
SERVABLE = True
MAX_MLMODEL = 1 << 20


def detect(probe: Probe) -> bool:
    return probe.is_dir and (probe.path / "MLmodel").is_file()


def open(path: Path, read: str) -> Checkpoint:
    """The inner checkpoint, with the flavor's versions, and which of its requirements are not met here."""
    document = _document(path)
    name, flavor = _flavor(path, document)
    place = FLAVORS[name](path, flavor)
    inner = _inner(place, read)
    if isinstance(inner, PickledObjects) and flavor.get("code"):
        inner = _with_code(inner, contained(path, flavor["code"]))
    recorded = _mlflow_signature.example(path, document)
    takes, columns = _mlflow_signature.takes(document), _mlflow_signature.columns(document)
    beside = replace(place.beside, takes=takes, example=recorded, columns=columns)
    metadata = {
        "inner_format": inner.format,
        **({} if name == "pytorch" else {"flavor": name}),
        "pytorch_version": flavor.get("pytorch_version"),
        "requirements_not_met": unmet(contained(path, "requirements.txt")),
        **inner.metadata,
    }
    if name == "python_function":
        metadata["not_run"] = str(flavor.get("python_model", flavor.get("loader_module")))
    return replace(inner, format=NAME, path=path, metadata=metadata, beside=beside)


def _inner(place: Place, read: str) -> Checkpoint:
    if place.config is not None:
        return hf_dir.open(place.checkpoint, read, place.config)
    from score.formats.registry import open_checkpoint  # the inner file may be of any format

    return open_checkpoint(place.checkpoint, read)


def _with_code(inner: PickledObjects, folder: Path) -> PickledObjects:
    """What the model was logged with is imported from `folder`, and only when trusted."""

    def load_trusted() -> Any:
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True  # or imports would write into the model's folder
        return inner.load_trusted()

    return replace(inner, load_trusted=load_trusted)


def _document(folder: Path) -> dict[str, Any]:
    """MLmodel, read. Raises `MalformedFile`."""
    file = within(folder, "MLmodel")
    if file.stat().st_size > MAX_MLMODEL:
        raise MalformedFile(f"MLmodel takes {file.stat().st_size:,} bytes, too much for what it is")
    try:
        document = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise MalformedFile(f"MLmodel is not valid YAML ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("flavors"), dict):
        raise MalformedFile("MLmodel has no flavors")
    return document


def _flavor(folder: Path, document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The flavor that is known here, and what MLmodel says of it."""
    flavors = document["flavors"]
    others = [str(name) for name in flavors if name not in FLAVORS]
    for name in FLAVORS:
        if isinstance(flavors.get(name), dict) and not (name == "python_function" and others):
            return name, flavors[name]
    raise UnsupportedFormat(
        f"{folder.name} is an MLflow model of flavor {', '.join(map(str, flavors))}, not one of PyTorch",
        hint="Log it with mlflow.pytorch.log_model, or deploy it with MLflow's own server.",
    )


def unmet(requirements: Path) -> list[str]:
    """The requirements in a requirements.txt that what is installed does not meet, as `torch==2.1 (here 2.13)`."""
    if not requirements.is_file() or requirements.stat().st_size > MAX_MLMODEL:
        return []
    found = []
    for line in requirements.read_text(errors="replace").splitlines()[:500]:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue  # a comment, an option of pip's, an address
        if not wanted.specifier or wanted.name == "mlflow":
            continue
        try:
            here = Version(importlib.metadata.version(wanted.name))
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{line.strip()} (not installed)")
            continue
        if not wanted.specifier.contains(here.public, prereleases=True):
            found.append(f"{line.strip()} (here {here})")
    return found
