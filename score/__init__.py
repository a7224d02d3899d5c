"""Loadstone: serve any PyTorch checkpoint as an Azure ML online endpoint."""
