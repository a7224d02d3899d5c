"""What `import score` offers: a checkpoint as a module, as a mapping of tensors, or as a predictor, in one line each.

Settings are those of docs/settings.md, as keyword arguments; environment variables and `score.toml` count as they do
for the server, where an argument does not say otherwise. Errors are the server's: each has a `code`, a `message`, a
`hint`.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score.errors import NoWeights
from score.inference import predictor
from score.inference.pipeline import load_model, weights_of
from score.settings import Settings
from score.weights.opened import TensorMapping
from score.weights.opened import open_weights as opened

PathLike = str | os.PathLike[str]


def load(path: PathLike, device: str | torch.device | None = None, **settings: Any) -> nn.Module:
    """Load a checkpoint of any format as a module, in evaluation mode, without gradients.

    Args:
        path: the checkpoint, or the folder that holds it.
        device: `cpu`, `cuda`, `cuda:N`; else the GPU where there is one with enough memory.
        **settings: any setting, such as `architecture="my_file.py:Net"`, `weights="ema"` or `trust_sha256=[...]`.

    Returns:
        The module with the checkpoint's own values, each of them: nothing is filled in.

    Raises:
        LoadError: it can't be loaded; `error.screen()` says why, and what to do.

    Example:
        >>> import score
        >>> model = score.load("examples/digits/torch-zip", device="cpu")
        >>> type(model).__name__
        'DigitsCNN'
    """
    return load_model(_settings(path, device, settings)).module


def open_weights(path: PathLike, **settings: Any) -> TensorMapping:
    """Open a checkpoint's weights as a read-only mapping from names to tensors, as `safetensors.safe_open` does for its
    own format. Nothing in the file runs, and a tensor is brought in when it is asked for.

    Args:
        path: the checkpoint, or the folder that holds it.
        **settings: any setting, such as `weights="generator"` where the file holds several.

    Returns:
        The mapping. `mapping.refs[name]` has a tensor's `dtype` and `shape` without bringing it in.

    Raises:
        LoadError: there are no weights in it, or several; for a tensor, `MalformedFile` where its bytes are damaged.

    Example:
        >>> import score
        >>> weights = score.open_weights("examples/digits/torch-zip")
        >>> weights.refs["features.0.weight"].shape
        (32, 1, 3, 3)
        >>> weights["features.0.bias"].dtype
        torch.float32
    """
    said = _settings(path, None, settings)
    found = opened(said)
    weights = weights_of(said, found)
    if weights is None:
        raise NoWeights(f"{found.checkpoint.path.name} holds no weights that can be read without running it")
    return TensorMapping(weights.tensors)


class Predictor(predictor.Predictor):
    """A checkpoint that answers in this process as the server would: the same checks, labels, images, texts, batches.

    Args:
        path: the checkpoint, or the folder that holds it.
        device: `cpu`, `cuda`, `cuda:N`; else the GPU where there is one with enough memory.
        **settings: any setting, such as `inputs="float32[N, 3, 224, 224]"` or `labels=["cat", "dog"]`.

    Raises:
        LoadError: it can't be loaded. Calling it raises a `RequestError`, such as `WrongShape`.

    Example:
        >>> import numpy as np
        >>> import score
        >>> predictor = score.Predictor("examples/digits/torch-zip", device="cpu")
        >>> print(predictor.signature)
        takes pixels: float32[N, 1, 8, 8] (registered)
        >>> predictor(np.zeros((2, 1, 8, 8))).shape
        (2, 10)
    """

    def __init__(self, path: PathLike, device: str | torch.device | None = None, **settings: Any) -> None:
        made = load_model(_settings(path, device, settings))
        super().__init__(
            made.module, made.report, made.settings, made.registered, made.checkpoint, made.home, made.beside,
            made.hooks,
        )  # fmt: skip


def _settings(path: PathLike, device: str | torch.device | None, settings: dict[str, Any]) -> Settings:
    return Settings.load(Path(path), device=None if device is None else str(device), **settings)
