"""`mlflow`: a folder with an `MLmodel` and a pytorch flavor; its inner checkpoint is what is served.

Source: mlflow/pytorch/__init__.py, `_save_model`.
"""

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from score.errors import MalformedFile, NoCheckpoint, UnsupportedFormat
from score.formats._io.folder import contained, within
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
    from score.formats.registry import open_checkpoint  # the inner file may be of any format

    flavor = _flavor(path)
    inner = open_checkpoint(_inner(path, flavor), read)
    if isinstance(inner, PickledObjects) and flavor.get("code"):
        inner = _with_code(inner, contained(path, flavor["code"]))
    metadata = {
        "inner_format": inner.format,
        "pytorch_version": flavor.get("pytorch_version"),
        "requirements_not_met": unmet(contained(path, "requirements.txt")),
        **inner.metadata,
    }
    return replace(inner, format=NAME, path=path, metadata=metadata)


def _with_code(inner: PickledObjects, folder: Path) -> PickledObjects:
    """What the model was logged with is imported from `folder`, and only when trusted."""

    def load_trusted() -> Any:
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True  # or imports would write into the model's folder
        return inner.load_trusted()

    return replace(inner, load_trusted=load_trusted)


def _flavor(folder: Path) -> dict[str, Any]:
    file = within(folder, "MLmodel")
    if file.stat().st_size > MAX_MLMODEL:
        raise MalformedFile(f"MLmodel takes {file.stat().st_size:,} bytes, too much for what it is")
    try:
        document = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise MalformedFile(f"MLmodel is not valid YAML ({error})") from None
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        raise MalformedFile("MLmodel has no flavors")
    flavor = flavors.get("pytorch")
    if not isinstance(flavor, dict):
        raise UnsupportedFormat(
            f"{folder.name} is an MLflow model of flavor {', '.join(map(str, flavors))}, not pytorch",
            hint="Log it with mlflow.pytorch.log_model, or deploy it with MLflow's own server.",
        )
    return flavor


def _inner(folder: Path, flavor: dict[str, Any]) -> Path:
    """`data/model.pth` below the flavor's model_data; older versions wrote other names."""
    data = contained(folder, flavor.get("model_data", "data"))
    for name in ("model.pth", "model.pt2", "state_dict.pth"):
        if (data / name).is_file():
            return within(data, name)
    raise NoCheckpoint(f"{folder.name}: MLmodel says the model is in {data.name}/, and there is no model.pth")


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
