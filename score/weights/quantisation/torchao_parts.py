"""torchao's weights in a safetensors file, which has their parts (`layer._weight_qdata`, `layer._weight_scale`), and
in its metadata what they are parts of; and those of a pickle, which have been put together there.

Source: torchao 0.18, `prototype/safetensors`, which transformers writes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from score.errors import QuantisedWeights
from score.formats import dtypes
from score.formats._pickle import torchao
from score.formats.base import TensorRef
from score.weights.quantisation.packing import Tensors, made

METHODS = ("torchao",)
_PLAIN = "Tensor"


def dequantised(tensors: Tensors, descriptions: Mapping[str, Any], dtype: str) -> dict[str, TensorRef]:
    """The state with each weight in the place of its parts; of each, the file has a description as JSON. Raises
    `QuantisedWeights`."""
    found = {name: made(ref.shape, ref.load, dtype) if torchao.was_one(ref) else ref for name, ref in tensors.items()}
    for name, text in descriptions.items():
        said = _description(name, text)
        if said.get("_type") == _PLAIN:
            continue
        held, parts = said.get("_data"), said.get("_tensor_data_names")
        if not isinstance(held, dict) or not isinstance(parts, list):
            raise QuantisedWeights(f"the file's metadata do not say what {name} is made of")
        layer, dot, parameter = name.rpartition(".")
        places = {part: f"{layer}{dot}_{parameter}_{part}" for part in map(str, parts)}
        if missing := [place for place in places.values() if place not in tensors]:
            raise QuantisedWeights(f"{name} is quantised, and its {', '.join(missing)} is not in the checkpoint")
        ref = _numbers(str(said.get("_type")), held, {part: found.pop(place) for part, place in places.items()})
        if ref is None:
            raise QuantisedWeights(f"{name} is a {said.get('_type')!r:.60} of torchao's, which is not read here")
        found[name] = made(ref.shape, ref.load, dtype)
    return found


def _numbers(kind: str, held: Mapping[str, Any], parts: Mapping[str, TensorRef]) -> TensorRef | None:
    """The weight that a description and its parts stand for; None where they do not fit."""
    data, scale = parts.get("qdata"), parts.get("scale")
    if data is None or scale is None:
        return None
    shape, dtype = held.get("shape", data.shape), held.get("dtype", {"_data": scale.dtype_name})
    whole = isinstance(shape, (list, tuple)) and all(type(size) is int and size >= 0 for size in shape)
    name = dtype.get("_data") if isinstance(dtype, dict) else None
    if not whole or not isinstance(name, str) or name not in dtypes.ITEMSIZE:
        return None
    return torchao.numbers_of(kind, {**held, **parts}, tuple(shape), name)


def _description(name: str, text: Any) -> dict[str, Any]:
    """Raises `QuantisedWeights` for what is none."""
    try:
        found = orjson.loads(text)
    except (TypeError, orjson.JSONDecodeError):
        found = None
    if not isinstance(found, dict):
        raise QuantisedWeights(f"the file's metadata do not say what {name!r:.80} is")
    return found
