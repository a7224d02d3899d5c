"""timm's own `config.json`: the architecture, the arguments that it was made with, and how images become its input.

Source: timm/models/_hub.py, `_parse_model_cfg`. Before version 0.9 everything stood in one object.
"""

import re
from collections.abc import Mapping
from typing import Any

from score.architectures.libraries import PROVIDERS, builder
from score.errors import ArchitectureBroken
from score.formats.base import ModelFactory

# Arguments of `create_model` itself, which fetch or open files: a configuration has no say in them.
_NEVER = frozenset(
    (
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable"),
        *("exportable", "no_jit", "pretrained_strict", "pretrained_model_args", "device", "dtype", "model_name"),
    )
)
# What of `pretrained_cfg` describes the model, and not where its weights are.
_DESCRIBES = frozenset(
    (
        *("input_size", "fixed_input_size", "test_input_size", "min_input_size", "interpolation", "crop_pct"),
        *("test_crop_pct", "crop_mode", "mean", "std", "num_classes", "pool_size", "first_conv", "classifier"),
        *("label_names", "label_descriptions"),
    )
)
_WORD = re.compile(r"[A-Za-z0-9_]{0,64}\Z")


def parsed(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what describes the model and its input, the keyword arguments that it is made with). Raises
    `ArchitectureBroken` for an argument that no model takes."""
    said = {**_object(config, "pretrained_cfg"), **config}
    described = {name: value for name, value in said.items() if name in _DESCRIBES}
    made_with = dict(_object(config, "model_args"))
    for name, value in made_with.items():
        if name in _NEVER or not _is_plain(value):
            raise ArchitectureBroken(
                f"config.json gives {name}={value!r:.80} to timm, which is not an argument of numbers and words",
                hint="Remove it from model_args: the weights are here, nothing is fetched or opened for them.",
            )
    if isinstance(size := described.get("num_classes"), int) and size >= 0:
        made_with.setdefault("num_classes", size)
    if isinstance(pool := said.get("global_pool"), str) and _WORD.match(pool):
        made_with.setdefault("global_pool", pool)
    return described, made_with


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, in order: their descriptions where there are, or empty."""
    said = {**_object(config, "pretrained_cfg"), **config}
    names, descriptions = said.get("label_names"), said.get("label_descriptions")
    if not isinstance(names, list):
        return ()
    long = descriptions if isinstance(descriptions, dict) else {}
    return tuple(str(long.get(name, name)) for name in names)


def factory(config: Mapping[str, Any]) -> ModelFactory | None:
    """The class that a configuration names; None where timm is not installed."""
    name = f"timm:{config['architecture']}"
    if not PROVIDERS["timm"].installed:
        return None
    build = builder(name)
    assert build is not None
    described, made_with = parsed(config)
    return ModelFactory(name, lambda: build(pretrained_cfg=described, **made_with))


def _object(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _is_plain(value: Any) -> bool:
    """A number, yes or no, a word, or a list or a table of these: no path and no address."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and _WORD.match(name) and _is_plain(item) for name, item in value.items())
    return (
        value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and bool(_WORD.match(value)))
    )
