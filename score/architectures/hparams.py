"""The constructor's arguments that a checkpoint kept: Lightning's `hyper_parameters`, `model_args`, `hparams` ..."""

from collections.abc import Mapping
from typing import Any

# In the order of how surely they are the model's own.
KEYS = (
    *("model_args", "model_kwargs", "model_config", "model_params", "init_args", "architecture_kwargs"),
    *("hyper_parameters", "hparams", "config", "cfg", "args", "kwargs", "params"),
)


def arguments(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Mappings that may be keyword arguments of the model's class, the likeliest first, with those nested in them."""
    found: list[Mapping[str, Any]] = []
    for key in KEYS:
        value = metadata.get(key)
        if isinstance(value, Mapping):
            found += [inner for name, inner in value.items() if name in ("model", *KEYS) and isinstance(inner, Mapping)]
            found.append(value)
    return [{name: item for name, item in mapping.items() if not _is_place(item)} for mapping in found]


def _is_place(value: Any) -> bool:
    """A path or an address. A checkpoint may not have a constructor open what the checkpoint names."""
    return isinstance(value, str) and ("/" in value or "\\" in value)
