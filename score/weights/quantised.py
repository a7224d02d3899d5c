"""Quantised weights, by the ways in which tools write them: as the numbers that they stand for, or named and refused.

A quantised layer is several entries: integers, scales, zero points. To leave some of them out as "unexpected" would be
a model that answers nonsense; to write the others as safetensors would be a file that has lost its layers. So they are
put together (`score.weights.quantisation`), each tensor when it is brought in, or the checkpoint does not start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from score.errors import NoWeights, QuantisedWeights
from score.formats._pickle import torchao
from score.formats._pickle.inert import settled
from score.formats.base import Checkpoint, OpaqueObject, Program, TensorRef
from score.formats.safetensors import TORCHAO
from score.weights import select
from score.weights.quantisation import awq, bitsandbytes, compressed, float8, gptq, packing, torch_ao, torchao_parts
from score.weights.select import Candidate

MAX_VISITED = 200_000
_TORCH_AO, _TORCHAO = "torch.ao.quantization", "torchao"
_LAYERS = (
    (_TORCHAO, re.compile(r"torchao\.")),
    (_TORCH_AO, re.compile(r"torch\.(ao\.)?nn\.(quantized|intrinsic\.quantized|quantizable)\.")),
)
_FLOAT8 = ("float8", "float4")
# How a scheme is told: names that no layer of torch has by itself.
_SCHEMES = (
    ("GPTQ or AWQ (qweight, qzeros, scales)", re.compile(r"(^|\.)(qweight|qzeros|g_idx)$")),
    ("bitsandbytes", re.compile(r"\.(SCB|absmax|quant_map|nested_absmax|quant_state\..+)$")),
    ("compressed-tensors", re.compile(r"\.(weight_packed|weight_scale(_inv|_2)?|input_scale|weight_zero_point)$")),
    (_TORCH_AO, re.compile(r"(^|\.)_packed_params(\.|$)|\._packed_params\.")),
    ("MXFP4", re.compile(r"_proj_(blocks|scales)$")),
    ("quanto", re.compile(r"\.weight\._(data|scale|shift)$")),
    (_TORCHAO, re.compile(r"(\.weight:|(^|\.)_\w+_)(qdata|scale|zero_point)$")),
)


def weights_of(checkpoint: Checkpoint, wanted: str | None) -> Candidate | None:
    """`select.weights_of`, quantised ones as the numbers that they stand for: bfloat16 where the rest is, else float32.
    Raises `QuantisedWeights` for those of a way that is not known."""
    try:
        weights = select.weights_of(checkpoint, wanted)
    except NoWeights:
        refuse(checkpoint, None)
        raise
    if weights is None or isinstance(checkpoint, Program) or scheme(checkpoint, weights) is None:
        return weights
    method = _method(checkpoint, weights)
    if method is None:
        refuse(checkpoint, weights)
    assert method is not None, "what is not known is refused"
    said = checkpoint.metadata.get(TORCHAO if method is torchao_parts else "quantization_config")
    tensors = _unpacked(checkpoint, weights)
    dtype = "bfloat16" if any(ref.dtype_name == "bfloat16" for ref in tensors.values()) else "float32"
    made = method.dequantised(tensors, said if isinstance(said, dict) else {}, dtype)
    left = [name for name in made if any(pattern.search(name) for _, pattern in _SCHEMES)]
    left += [name for name, ref in made.items() if ref.dtype_name.startswith(_FLOAT8) or ref.layout == "quantized"]
    untouched = made.keys() == tensors.keys() and all(made[name] is tensors[name] for name in made)
    if left or (untouched and weights.module is None):
        raise QuantisedWeights(
            f"{checkpoint.path.name} says that its weights are quantised, and what was to be done for that leaves "
            f"{', '.join(left[:6]) or 'all as they are'}"
        )
    return replace(weights, tensors={name: _as(ref, dtype) for name, ref in made.items()})


def _as(ref: TensorRef, dtype: str) -> TensorRef:
    """A tensor that is not quantised in the precision of those that were."""
    if ref.dtype_name not in ("float16", "bfloat16", "float32") or ref.dtype_name == dtype:
        return ref
    return packing.made(ref.shape, ref.load, dtype)


_MODULES = (gptq, awq, float8, bitsandbytes, compressed, torchao_parts)


def _method(checkpoint: Checkpoint, weights: Candidate) -> Any:
    """What puts the weights together; None where nothing is known to."""
    said = checkpoint.metadata.get("quantization_config")
    if isinstance(said, dict):
        return next((each for each in _MODULES if said.get("quant_method") in each.METHODS), None)
    if any(".quant_state.bitsandbytes__" in name for name in weights.tensors):
        return bitsandbytes  # which says all of itself
    if TORCHAO in checkpoint.metadata:
        return torchao_parts
    if weights.module is not None:
        return torch_ao if (found := scheme(checkpoint, weights)) and found[0] == _TORCH_AO else None
    ours = any(ref.layout == "quantized" for ref in _unpacked(checkpoint, weights).values())
    return torch_ao if ours else None


def _unpacked(checkpoint: Checkpoint, weights: Candidate) -> dict[str, TensorRef]:
    """A state's tensors, with those that torch.ao keeps in pairs: weight and bias of a linear layer."""
    found = dict(weights.tensors)
    mapping: Any = checkpoint.tree
    for part in filter(None, weights.path.split(".")):
        mapping = mapping.get(part) if isinstance(mapping, dict) else None
    for key, value in mapping.items() if isinstance(mapping, dict) else ():
        layer = str(key).removesuffix("._packed_params._packed_params")
        if layer != key and isinstance(value, tuple) and len(value) == 2:
            pair = {"weight": settled(value[0]), "bias": settled(value[1])}
            found.update({f"{layer}.{name}": ref for name, ref in pair.items() if isinstance(ref, TensorRef)})
    return found


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
            f"{checkpoint.path.name} holds weights quantised by {name}, which are not served as they are here: {listed}"
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
        names = {name for name, _ in packed}
        return (_TORCHAO if _TORCHAO in names else _TORCH_AO), [entry for _, entry in packed]
    return None


def _packed(tree: Any) -> Iterator[tuple[str, str]]:
    """What packed them and where in a checkpoint quantised tensors lie, whatever they are packed in."""
    waiting: list[tuple[str, Any]] = [("", tree)]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_VISITED:
        path, value = waiting.pop()
        value = settled(value) if torchao.is_one(value) else value
        if isinstance(value, TensorRef):
            if value.layout == "quantized":
                yield _TORCH_AO, path
            continue
        if id(value) in seen:
            continue
        children: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, dict):
            children = value.items()
        elif isinstance(value, OpaqueObject):
            yield from ((name, path) for name, pattern in _LAYERS if pattern.match(value.path))
            children = (("", part) for part in value.containers() if part)
        elif isinstance(value, (list, tuple)):
            children = enumerate(value)
        else:
            continue
        seen.add(id(value))
        waiting.extend((f"{path}.{key}" if path and key != "" else path or str(key), child) for key, child in children)
