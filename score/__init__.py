"""Loadstone: serve any PyTorch checkpoint as an Azure ML online endpoint."""

from score.imports import models_folder

__version__ = "0.1.0"  # written wherever else it stands by `python -m tools.version`

models_folder.install()
