"""What a user's own file may define beside its class: how a request becomes the model's input, and its outputs the
answer. As LitServe's `decode_request` and `encode_response`.

    def preprocess(request): ...   # a JSON document, uint8[H, W, 3] of a picture, float32[T] of a recording, an array
    def postprocess(outputs): ...  # what `forward` returned for this request's rows, as numpy arrays
    example = {...}                # a request that is answered, for `score check` and the page

`preprocess` returns an array or a tensor, or several by the names of forward's parameters; the first dimension counts
rows. `postprocess` returns anything that JSON has, with arrays, tensors, dataclasses and pictures in it.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from score.codecs.base import Arrays, Decoded, Records
from score.errors import ModelRejected, RequestError
from score.inference import given
from score.inference.tasks.runner import jsonable

_FROM_FILES, _REGISTERED = "score_architecture_", "loadstone_models."


@dataclass(frozen=True)
class Hooks:
    """None for what is not defined."""

    preprocess: Callable[[Any], Any] | None = None
    postprocess: Callable[[Any], Any] | None = None
    example: Any = None

    def decoded(self, decoded: Decoded) -> Arrays:
        """A request's inputs, by the user's own `preprocess`. Raises `ModelRejected` with what it raised."""
        assert self.preprocess is not None
        request = decoded.arrays if decoded.items is None else list(decoded.items.values)
        request = request if decoded.document is None else decoded.document
        return given.arrays(_called("preprocess", self.preprocess, request), "what preprocess returned")

    def encoded(self, outputs: Arrays) -> Any:
        """An answer, by the user's own `postprocess`, as JSON has it. Raises `ModelRejected` with what it raised."""
        assert self.postprocess is not None
        found = [dict(row) for row in outputs.rows] if isinstance(outputs, Records) else outputs
        return jsonable(_plain(_called("postprocess", self.postprocess, found)))


NONE = Hooks()


def of(home: str, named: str | None) -> Hooks:
    """The hooks in the module `home`, where that is a file of `models/`, or the one that the setting `named`."""
    own = home.startswith((_FROM_FILES, _REGISTERED)) or (named or "").rpartition(":")[0] == home
    module = sys.modules.get(home)
    if not own or module is None:
        return NONE
    return Hooks(_defined(module, "preprocess"), _defined(module, "postprocess"), getattr(module, "example", None))


def _defined(module: ModuleType, name: str) -> Callable[[Any], Any] | None:
    """A function that is defined there, and not imported or something else of that name."""
    found = getattr(module, name, None)
    return found if callable(found) and getattr(found, "__module__", None) == module.__name__ else None


def _called(name: str, hook: Callable[[Any], Any], value: Any) -> Any:
    try:
        with torch.inference_mode():
            return hook(value)
    except RequestError:
        raise
    except Exception as error:  # a user's code raises anything
        raise ModelRejected(
            f"{name} raised {type(error).__name__}: {str(error)[:500]}",
            hint=f"Compare the request with what {name} in the model's file expects, or mend {name}.",
        ) from error


def _plain(value: Any) -> Any:
    """Dataclasses and named tuples as objects, by their fields; sets as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value


def module_of(module: nn.Module) -> str:
    """The Python module that a model's class is of."""
    return type(module).__module__
