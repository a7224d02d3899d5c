"""Quantised weights, by the ways in which tools write them: named and refused, until they are served.

A quantised layer is several entries: integers, scales, zero points. To leave some of them out as "unexpected" would be
a model that answers nonsense; to write the others as safetensors would be a file that has lost its layers.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from score.errors import NoWeights, QuantisedWeights
from score.formats.base import Checkpoint, OpaqueObject, Program, TensorRef
from score.weights import select
from score.weights.select import Candidate

MAX_VISITED = 200_000
_LAYERS = re.compile(r"torchao\.|torch\.(ao\.)?nn\.(quantized|intrinsic\.quantized|quantizable)\.")
_FLOAT8 = ("float8", "float4")
# How a scheme is told: names that no layer of torch has by itself.
_SCHEMES = (
    ("GPTQ or AWQ (qweight, qzeros, scales)", re.compile(r"(^|\.)(qweight|qzeros|g_idx)$")),
    ("bitsandbytes", re.compile(r"\.(SCB|absmax|quant_map|nested_absmax|quant_state\..+)$")),
    ("compressed-tensors", re.compile(r"\.(weight_packed|weight_scale(_inv|_2)?|input_scale|weight_zero_point)$")),
    ("torch.ao.quantization", re.compile(r"(^|\.)_packed_params(\.|$)|\._packed_params\.")),
    ("quanto", re.compile(r"\.weight\._(data|scale|shift)$")),
    ("torchao", re.compile(r"\.weight:(qdata|scale|zero_point)$")),
)


def weights_of(checkpoint: Checkpoint, wanted: str | None) -> Candidate | None:
    """`select.weights_of`, where these are not quantised. Raises `QuantisedWeights` too where nothing else is
    left of them."""
    try:
        weights = select.weights_of(checkpoint, wanted)
    except NoWeights:
        refuse(checkpoint, None)
        raise
    refuse(checkpoint, weights)
    return weights


def refuse(checkpoint: Checkpoint, weights: Candidate | None) -> None:
    """Raise `QuantisedWeights` for weights that only mean something with their scales. A program, which computes with
    them itself, is left alone."""
    if isinstance(checkpoint, Program):
        return
    found = scheme(checkpoint, weights)
    if found is not None:
        name, samples = found
        listed = ", ".join(samples[:6]) + (f" and {len(samples) - 6} more" if len(samples) > 6 else "")
        raise QuantisedWeights(
            f"{checkpoint.path.name} holds weights quantised by {name}, which are not served yet: {listed}"
        )


def scheme(checkpoint: Checkpoint, weights: Candidate | None) -> tuple[str, list[str]] | None:
    """What the weights are quantised by, and the entries that say so; None where they are not."""
    named = list(weights.tensors) if weights is not None else []
    said = checkpoint.metadata.get("quantization_config")
    for name, pattern in _SCHEMES:
        samples = [entry for entry in named if pattern.search(entry)]
        if samples:
            return name, samples
    if isinstance(said, dict):
        return f"{said.get('quant_method', 'what config.json calls quantization_config')}", ["quantization_config"]
    small = [entry for entry, ref in (weights.tensors.items() if weights else ()) if ref.dtype_name.startswith(_FLOAT8)]
    if small:
        return "float8", small
    packed = list(_packed(checkpoint.tree))
    if packed:
        return "torch.ao.quantization", packed
    return None


def _packed(tree: Any) -> Iterator[str]:
    """Where in a checkpoint quantised tensors lie, whatever they are packed in."""
    waiting: list[tuple[str, Any]] = [("", tree)]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_VISITED:
        path, value = waiting.pop()
        if isinstance(value, TensorRef):
            if value.layout == "quantized":
                yield path
            continue
        if id(value) in seen:
            continue
        children: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, dict):
            children = value.items()
        elif isinstance(value, OpaqueObject):
            if _LAYERS.match(value.path):
                yield path
            children = (("", part) for part in value.containers() if part)
        elif isinstance(value, (list, tuple)):
            children = enumerate(value)
        else:
            continue
        seen.add(id(value))
        waiting.extend((f"{path}.{key}" if path and key != "" else path or str(key), child) for key, child in children)
