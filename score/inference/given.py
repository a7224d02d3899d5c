"""What Python code gives as a model's inputs, as a codec would have decoded it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from score.codecs import json_dialects
from score.codecs.base import Arrays


def arrays(value: Any, where: str) -> Arrays:
    """An array, a tensor or nested lists, or several by name. Raises `NotNumeric` or `RaggedRows`, saying where."""
    if isinstance(value, Mapping):
        return {str(name): _array(each, str(name)) for name, each in value.items()}
    return _array(value, where)


def _array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy(force=True)  # numpy has no bfloat16
    found: np.ndarray = value if isinstance(value, np.ndarray) else json_dialects.array(value, where)
    return found
