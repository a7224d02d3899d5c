"""An OpenVINO graph behind the interface of a module."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score.errors import MalformedFile, UnsupportedFormat

_TYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "boolean": "bool"}
# What the graph says, and not what the processor is quickest with.
_AS_IT_IS = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}


class Graph(nn.Module):
    """A compiled graph. `takes` says its inputs, for the signature; `names` their order."""

    def __init__(self, compiled: Any) -> None:
        super().__init__()
        self.compiled = compiled
        self.names = [_named(port, "input", at) for at, port in enumerate(compiled.inputs)]
        self.outputs = [_named(port, "output", at) for at, port in enumerate(compiled.outputs)]
        self.takes = {name: _spec(port) for name, port in zip(self.names, compiled.inputs, strict=True)}

    def forward(self, *inputs: torch.Tensor) -> Any:
        keep_denormals()
        request = self.compiled.create_infer_request()  # one of its own: a compiled graph may be asked by many
        request.infer([item.cpu().contiguous().numpy() for item in inputs])
        found = [torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors]
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))


def keep_denormals() -> None:
    """Have this thread compute with numbers below 1e-38 as they are. To a processor without AVX-512, OpenVINO gives
    integers as such numbers, and they would be zeros where these are flushed."""
    torch.set_flush_denormal(False)


def load(path: Path, device: torch.device) -> nn.Module:
    """The graph, to be run on the CPU. Raises `UnsupportedFormat` without OpenVINO, `MalformedFile` for a graph that it
    does not take."""
    if importlib.util.find_spec("openvino") is None:
        raise UnsupportedFormat(
            f"{path.name} is an OpenVINO graph, and openvino is not installed",
            hint="pip install openvino (the extra is called openvino), or serve the PyTorch model it was made from.",
        )
    import openvino

    try:
        return Graph(openvino.Core().compile_model(str(path), "CPU", _AS_IT_IS)).eval()
    except Exception as error:  # noqa: BLE001  # OpenVINO's own exceptions are RuntimeErrors, and others
        said = str(error).strip().splitlines()
        raise MalformedFile(f"{path.name}: OpenVINO can't load it: {said[-1][:300] if said else ''}") from None


def _named(port: Any, kind: str, at: int) -> str:
    return str(sorted(port.names)[0]) if port.names else f"{kind}_{at}"


def _spec(port: Any) -> str:
    """Its type and shape as `float32[N, 3]`; a size that is no number is any size."""
    name = port.element_type.get_type_name()
    sizes = [str(size.get_length()) if size.is_static else "?" for size in port.partial_shape]
    return f"{_TYPES.get(name, name)}[{', '.join(sizes)}]"
