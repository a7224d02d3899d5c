"""Loadstone: serve any PyTorch checkpoint as an Azure ML online endpoint."""

__version__ = "0.1.0"  # written wherever else it stands by `python -m tools.version`
