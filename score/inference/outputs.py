"""What a model returned, as arrays by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from score.errors import ModelRejected


def arrays(value: Any) -> np.ndarray | dict[str, np.ndarray]:
    """One tensor as one array; anything else flattened to arrays by name: `name`, `name.inner`, `output_0`...

    Text is an array of text, a list of them one array. A name never depends on how many there are: one dict in a list
    is `output_0.name`, as two are.
    """
    if isinstance(value, torch.Tensor):
        return array(value)
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str) or _is_text(value):
        return np.asarray(value)
    single = isinstance(value, (list, tuple)) and not hasattr(value, "_fields") and len(value) == 1
    if single and not isinstance(value[0], Mapping):
        return arrays(value[0])
    named = dict(_flatten(value, ""))
    if not named:
        raise ModelRejected(f"the model returned a {type(value).__name__} with no tensor, number or text in it")
    return named


def _flatten(value: Any, name: str) -> Any:
    if isinstance(value, torch.Tensor):
        yield name or "output", array(value)
    elif isinstance(value, np.ndarray):
        yield name or "output", value
    elif isinstance(value, str) or _is_text(value):
        yield name or "output", np.asarray(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    elif hasattr(value, "_fields"):
        yield from _flatten(value._asdict(), name)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _flatten(item, f"{name or 'output'}_{index}")
    elif isinstance(value, (bool, int, float)):
        yield name or "output", np.asarray(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, str) for item in value)


def array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as numpy can hold it: dense, on the CPU; half and smaller floats as float32, complex as pairs."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    found: np.ndarray = tensor.cpu().contiguous().numpy()
    return found
