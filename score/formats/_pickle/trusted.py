"""The policy for a file whose code was allowed: its classes are imported and called, as pickle would.

Nothing here decides whether to: see `score.weights.trust`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import torch

from score.errors import ClassNotImportable
from score.formats._pickle import inert, joblib_arrays, rebuild
from score.formats.base import GlobalName, OpaqueObject, TensorRef
from score.imports import models_folder


def importable(path: str) -> bool:
    """Whether a class path names something that exists here. Imports the module."""
    try:
        _resolve(path)
    except (ImportError, AttributeError):
        return False
    return True


def _resolve(path: str) -> Any:
    """`package.module.Outer.Inner`: the longest part that is a module, then attributes."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if error.name and ".".join(parts[:cut]).startswith(error.name):
                continue
            raise
        return reduce(getattr, parts[cut:], module)
    raise ModuleNotFoundError(f"No module named {parts[0]!r}", name=parts[0])


class Trusted:
    """Imports what the file names. Tensors are rebuilt by the same checked functions as in every other file.

    `names` are those the file mentions, so that all that are missing are reported at once (`ClassNotImportable`).
    """

    def __init__(self, names: Iterable[str]) -> None:
        models_folder.give_way()
        missing = [name for name in names if not importable(name)]
        if missing:
            raise ClassNotImportable(
                f"the file holds a pickled module, and {missing[0]} does not exist here",
                detail="\n".join(f"not importable: {name}" for name in missing),
            )

    def find(self, module: str, name: str) -> Any:
        module = inert._PYTHON_2.get(module, module)
        path = f"{module}.{name}"
        if path in _TENSORS:
            return _TENSORS[path]
        if path in joblib_arrays.WRAPPERS:
            return GlobalName(path)
        if inert._is_storage(module, name) or inert._is_legacy_tensor(module, name):
            return GlobalName(path)
        return _resolve(path)

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        return function(*args)

    def new(self, cls: Any, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> Any:
        return OpaqueObject(cls.path) if isinstance(cls, GlobalName) else cls.__new__(cls, *args, **kwargs)

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, OpaqueObject):
            target.state = state
            return
        setter = getattr(target, "__setstate__", None)
        if isinstance(target, torch.nn.Module) and not isinstance(state, dict):
            torch.nn.Module.__init__(target)  # a quantised convolution leaves it out, and has no submodules then
        if setter is not None:
            setter(state)
            return
        attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        if attributes:
            target.__dict__.update(attributes)
        for key, value in (slots or {}).items():
            setattr(target, key, value)

    def follows(self, target: Any, take: Callable[[int], Any]) -> Any:
        return joblib_arrays.array(target, take).copy() if joblib_arrays.is_wrapper(target) else target

    def extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, set):
            target.update(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            for item in items:
                target.append(item)

    def update(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        for key, value in pairs:
            target[key] = value


def _now(rebuild: Callable[..., TensorRef]) -> Callable[..., torch.Tensor]:
    return lambda *args: rebuild(*args).load()


def _nested(data: Any) -> Any:
    from score.formats._pickle.nested import load_from_bytes  # it reads pickles itself

    return load_from_bytes(data).value


def _parameter(data: torch.Tensor, requires_grad: bool = True, *_rest: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, requires_grad=requires_grad and data.is_floating_point())


_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _now(rebuild.rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _now(rebuild.rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": _now(rebuild.rebuild_tensor_v3),
    "torch._utils._rebuild_qtensor": _now(rebuild.rebuild_quantized),
    "torch.storage._load_from_bytes": _nested,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
