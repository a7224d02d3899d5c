"""torch, imported when something of it is first used: that takes a second, and a look into a file can do without.

By hand, since `importlib.util.LazyLoader` imports it at the second `import torch`, which asks for `__spec__`.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """A module that becomes the real one when an attribute is asked for; `__path__` too, and so its submodules."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None and spec.loader is not None, "only such are deferred"
        self.__class__ = ModuleType  # type: ignore[assignment]  # the same object: others hold it by now
        self.__dict__.update(importlib.util.module_from_spec(spec).__dict__)
        spec.loader.exec_module(self)
        return getattr(self, name)


def torch_when_used() -> None:
    """Have `import torch` do nothing until an attribute of it is asked for."""
    spec = importlib.util.find_spec("torch")
    if "torch" not in sys.modules and spec is not None:
        sys.modules["torch"] = _Deferred("torch")
        sys.modules["torch"].__spec__ = spec
