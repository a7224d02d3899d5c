"""An ONNX graph behind the interface of a module."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score.errors import MalformedFile, UnsupportedFormat


class Session(torch.nn.Module):
    """An onnxruntime session behind the interface of a module. `takes` says its inputs, for the signature, `operators`
    what its graph is made of."""

    def __init__(self, session: Any, operators: frozenset[str]) -> None:
        super().__init__()
        self.session, self.operators = session, operators
        self.names = [item.name for item in session.get_inputs()]
        self.outputs = [item.name for item in session.get_outputs()]
        self.takes = {item.name: _spec(item) for item in session.get_inputs()}

    def forward(self, *inputs: torch.Tensor) -> Any:
        given = dict(zip(self.names, (item.cpu().numpy() for item in inputs), strict=True))
        found = [_output(value) for value in self.session.run(self.outputs, given)]
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))


def _output(value: Any) -> Any:
    """What onnxruntime gives, as tensors; text stays text, and a list of maps (scikit-learn's probabilities) becomes a
    column for each key."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {str(key): torch.tensor([item[key] for item in value]) for key in value[0]}
    array = np.asarray(value)
    return array.astype(str) if array.dtype.kind in "OUS" else torch.from_numpy(array)


def _spec(item: Any) -> str:
    """`tensor(float)` and its shape as `float32[N, 3]`; a size that is no number is any size."""
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    names = {"float": "float32", "double": "float64"}
    return f"{names.get(kind, kind)}[{', '.join(str(size) if isinstance(size, int) else '?' for size in item.shape)}]"


def load(path: Path, device: torch.device, operators: frozenset[str]) -> torch.nn.Module:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UnsupportedFormat(
            f"{path.name} is an ONNX graph, and onnxruntime is not installed",
            hint="pip install onnxruntime (the extra is called onnx), or serve the PyTorch model it was made from.",
        )
    import onnxruntime

    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    try:
        return Session(onnxruntime.InferenceSession(str(path), providers=providers), operators)
    except Exception as error:  # noqa: BLE001  # onnxruntime's own exception classes differ by version
        raise MalformedFile(f"{path.name}: onnxruntime can't load it: {error}") from None
