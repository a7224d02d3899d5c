"""Loadstone: serve any PyTorch checkpoint as an Azure ML online endpoint; or load it, in one line.

score.load(path)            an nn.Module
score.open_weights(path)    its tensors by name, each brought in when it is asked for
score.Predictor(path)       called with inputs, it answers as the server does
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from score.imports import models_folder

if TYPE_CHECKING:
    from score.inference.library import Predictor, load, open_weights

__all__ = ["Predictor", "__version__", "load", "open_weights"]
__version__ = "0.1.0"  # written wherever else it stands by `python -m tools.version`

log = logging.getLogger("azmlinfsrv.score")  # azmlinfsrv shows what its own loggers are told, and no other's INFO

models_folder.install()


def __getattr__(name: str) -> Any:
    """The library's face, imported when it is used: torch takes two seconds, and `score --help` needs none of it."""
    if name in __all__:
        return getattr(importlib.import_module("score.inference.library"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
