"""Libraries of architectures that plug in where they are installed: torchvision, timm and transformers.

An architecture of theirs is named `provider:name`, such as `timm:resnet50`, in SCORE_ARCHITECTURE and everywhere else.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from score.errors import ArchitectureUnknown

_AUTO = (
    *("MODEL_MAPPING_NAMES", "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    *("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"),
    *("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
)


@dataclass(frozen=True)
class Provider:
    """A package, the names of what it has, and how one of them is built, without weights."""

    package: str
    names: Callable[[], list[str]]
    build: Callable[..., torch.nn.Module]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)


def _torchvision_names() -> list[str]:
    torchvision = importlib.import_module("torchvision")
    return [name for name in torchvision.models.list_models() if not name.startswith("quantized_")]


def _torchvision(name: str, **kwargs: Any) -> torch.nn.Module:
    models = importlib.import_module("torchvision").models
    if name not in models.list_models():
        raise ArchitectureUnknown(f"torchvision has no model {name!r}")
    takes = inspect.signature(models.get_model_builder(name)).parameters
    none = {each: None for each in ("weights", "weights_backbone") if each in takes}  # else detectors fetch theirs
    extra = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    module: torch.nn.Module = models.get_model(name, **none, **extra, **kwargs)
    return module


def _timm_names() -> list[str]:
    return list(importlib.import_module("timm").list_models())


def _timm(name: str, **kwargs: Any) -> torch.nn.Module:
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise ArchitectureUnknown(f"timm {timm.__version__} has no model {name!r}")
    module: torch.nn.Module = timm.create_model(name, pretrained=False, **kwargs)
    return module


def _transformers_names() -> list[str]:
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    found = {name for table in _AUTO for names in getattr(auto, table).values() for name in _listed(names)}
    return sorted(found)


def _listed(names: Any) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,)


def _transformers(name: str, **kwargs: Any) -> torch.nn.Module:
    """A class with its default configuration; keyword arguments go into the configuration."""
    transformers = importlib.import_module("transformers")
    cls = getattr(transformers, name, None)
    if cls is None or getattr(cls, "config_class", None) is None:
        raise ArchitectureUnknown(f"transformers {transformers.__version__} has no model class {name!r}")
    if "num_classes" in kwargs:
        kwargs["num_labels"] = kwargs.pop("num_classes")
    module: torch.nn.Module = cls(cls.config_class(**kwargs))
    return module


PROVIDERS = {
    "torchvision": Provider("torchvision", _torchvision_names, _torchvision),
    "timm": Provider("timm", _timm_names, _timm),
    "transformers": Provider("transformers", _transformers_names, _transformers),
}


def installing(package: str) -> str:
    """The command that installs a library beside the torch that is here. torchvision's versions go with torch's: 0.15
    with 2.0, and one more for each (pytorch.org/get-started/previous-versions)."""
    major, minor = torch.__version__.split(".")[:2]
    fits = major == "2" and package in ("torchvision", "timm")  # timm needs torchvision
    beside = f" 'torchvision==0.{int(minor) + 15}.*'" if fits else ""
    return f"pip install{beside}" if beside and package == "torchvision" else f"pip install {package}{beside}"


def builder(name: str) -> Callable[..., torch.nn.Module] | None:
    """How to build `provider:name`; None where that is not such a name. Raises `ArchitectureUnknown` where the provider
    is not installed."""
    package, _, rest = name.partition(":")
    provider = PROVIDERS.get(package)
    if provider is None or not rest:
        return None
    if not provider.installed:
        raise ArchitectureUnknown(
            f"{name} is of {package}, which is not installed", hint=f"Install it: {installing(package)}."
        )
    return lambda **kwargs: provider.build(rest, **kwargs)
