"""Loadstone: serve any PyTorch checkpoint as an Azure ML online endpoint."""

from score import own_models

__version__ = "0.1.0"  # written wherever else it stands by `python -m tools.version`

own_models.install()
