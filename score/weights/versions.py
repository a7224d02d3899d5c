"""The versions that a checkpoint says it was written with, beside those that are here.

Trainers leave them in many places: Lightning's `pytorch-lightning_version`, a config.json's `transformers_version`,
MLflow's `pytorch_version` and requirements, torch.export's `torch_version`, and whatever people save as
`torch_version`, `versions` or `environment`.
"""

import importlib.metadata
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

# What a package's version is saved as, after lower-casing and with `-` as `_`.
_KEYS = {
    "python": ("python", "python_version"),
    "torch": ("torch", "torch_version", "pytorch", "pytorch_version"),
    "numpy": ("numpy", "numpy_version"),
    "transformers": ("transformers", "transformers_version"),
    "pytorch-lightning": ("pytorch_lightning", "pytorch_lightning_version"),
    "lightning": ("lightning", "lightning_version"),
    "torchvision": ("torchvision", "torchvision_version"),
    "timm": ("timm", "timm_version"),
    "safetensors": ("safetensors", "safetensors_version"),
}
_PACKAGES = {key: package for package, keys in _KEYS.items() for key in keys}
_VERSION = re.compile(r"\d+(\.\d+)+")
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(\[[^\]]*\])?==(\S+)")
_DEPTH = 3  # how deep in the metadata a version is looked for


@dataclass(frozen=True)
class Difference:
    """A package whose version here is not the one that wrote the checkpoint; `here` is None where there is none."""

    package: str
    written_by: str
    here: str | None

    def __str__(self) -> str:
        return f"written with {self.package} {self.written_by}, here {self.here or 'it is not installed'}"

    @property
    def pin(self) -> str:
        """What to change so that the two agree."""
        if self.package == "python":
            return f"python={'.'.join(self.written_by.split('.')[:2])} in conda.yml, or a base image with that Python"
        return f"{self.package}=={self.written_by}"

    @property
    def newer(self) -> bool:
        """Whether what wrote the checkpoint is newer than what is here, counting major and minor only: files read
        forwards, not backwards."""
        return self.here is None or _major_minor(self.written_by) > _major_minor(self.here)


def written_by(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The versions, by package, that a checkpoint's metadata names."""
    return dict(reversed(list(_found(metadata, _DEPTH))))  # the first mention counts


def differences(metadata: Mapping[str, Any]) -> list[Difference]:
    """The packages of another version (major or minor) than the one that wrote the checkpoint."""
    found = []
    for package, version in written_by(metadata).items():
        here = _installed(package)
        if here is None or _major_minor(here) != _major_minor(version):
            found.append(Difference(package, version, here))
    return found


def advice(metadata: Mapping[str, Any]) -> list[str]:
    """A line for each difference; with the pin to change where what wrote the file is newer, and so may be why."""
    return [
        f"{each}: if that is why, pin {each.pin}" if each.newer and each.here is not None else str(each)
        for each in differences(metadata)
    ]


def _found(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            package = _PACKAGES.get(str(name).lower().replace("-", "_"))
            if package and isinstance(item, str) and (match := _VERSION.match(item.removeprefix("v"))):
                yield package, match[0]
            elif depth:
                yield from _found(item, depth - 1)
    elif isinstance(value, (list, tuple)) and depth:
        for item in value:
            match = _REQUIREMENT.match(item) if isinstance(item, str) else None
            if match and match[1].lower() in _KEYS and (version := _VERSION.match(match[3])):
                yield match[1].lower(), version[0]


def _installed(package: str) -> str | None:
    if package == "python":
        return platform.python_version()
    try:
        return Version(importlib.metadata.version(package)).public
    except importlib.metadata.PackageNotFoundError:
        return None


def _major_minor(version: str) -> tuple[int, int]:
    parsed = Version(version)
    return parsed.major, parsed.minor
