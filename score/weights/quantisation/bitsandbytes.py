"""bitsandbytes (Dettmers et al. 2022, 2023): rows of eight-bit integers with their largest value; blocks of four-bit
codes (NF4, FP4) with theirs, which may be quantised once more."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from score.errors import QuantisedWeights
from score.formats.base import TensorRef
from score.weights.quantisation.packing import Tensors, made

METHODS = ("bitsandbytes",)
_STATE = ".quant_state.bitsandbytes__"
_OF_FOUR = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_MOST_STATE = 10_000  # bytes


def dequantised(tensors: Tensors, _config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The state with each weight as numbers. Raises `QuantisedWeights`."""
    states = {name.partition(_STATE)[0]: name for name in tensors if _STATE in name}
    rows = {name.removesuffix("SCB") + "weight": name for name in tensors if name.endswith(".SCB")}
    gone = {f"{weight}.{part}" for weight in states for part in _OF_FOUR}
    gone |= {*states.values(), *rows.values(), *(name.removesuffix("weight") + "weight_format" for name in rows)}
    found = {name: ref for name, ref in tensors.items() if name not in gone}
    for weight, state in states.items():
        found[weight] = _four_bits(weight, tensors, tensors[state], dtype)
    for weight, scale in rows.items():
        found[weight] = _eight_bits(weight, tensors, tensors[scale], dtype)
    return found


def _eight_bits(name: str, tensors: Tensors, largest: TensorRef, dtype: str) -> TensorRef:
    ref = tensors.get(name)
    if ref is None or ref.dtype_name != "int8" or len(ref.shape) != 2 or largest.shape != ref.shape[:1]:
        raise QuantisedWeights(f"{name}: bitsandbytes' SCB without the integers that it belongs to")
    order = tensors.get(f"{name.removesuffix('weight')}weight_format")

    def load() -> torch.Tensor:
        if order is not None and int(order.load()) != 0:
            raise QuantisedWeights(f"{name}: rows in the order of a GPU's generation, which is not read here")
        return ref.load().float() * (largest.load().float() / 127)[:, None]

    return made(ref.shape, load, dtype)


def _four_bits(name: str, tensors: Tensors, state: TensorRef, dtype: str) -> TensorRef:
    packed, largest, codes = (tensors.get(each) for each in (name, f"{name}.absmax", f"{name}.quant_map"))
    said = _said(name, state)
    shape, block = said.get("shape"), said.get("blocksize")
    good = isinstance(shape, list) and all(isinstance(each, int) and each >= 0 for each in shape)
    if packed is None or largest is None or codes is None or not good or not isinstance(block, int) or block < 2:
        raise QuantisedWeights(f"{name}: parts of bitsandbytes' four-bit state are missing")
    shape, count = tuple(shape), math.prod(shape)  # type: ignore[arg-type]
    if packed.nbytes * 2 < count or largest.numel != -(-count // block) or codes.shape != (16,):
        raise QuantisedWeights(f"{name}: bitsandbytes' four-bit state is not of the size that it says")
    nested = tensors.get(f"{name}.nested_absmax"), tensors.get(f"{name}.nested_quant_map")

    def load() -> torch.Tensor:
        values = packed.load().flatten().view(torch.uint8)
        both = torch.stack((values >> 4, values & 15), 1).flatten()[:count]
        factors = largest.load()
        if nested[0] is not None and nested[1] is not None:
            factors = _twice(factors, nested[0].load(), nested[1].load(), said)
        spread = factors.float()[torch.arange(count) // block]
        return (codes.load().float()[both.long()] * spread).view(shape)

    return made(shape, load, dtype)


def _twice(values: torch.Tensor, largest: torch.Tensor, codes: torch.Tensor, said: Mapping[str, Any]) -> torch.Tensor:
    """Scales that are quantised themselves, around their mean."""
    block, offset = said.get("nested_blocksize"), said.get("nested_offset")
    if not isinstance(block, int) or block < 1 or not isinstance(offset, (int, float)) or codes.shape != (256,):
        raise QuantisedWeights("bitsandbytes' nested scales are not as they say")
    if largest.numel() != -(-len(values) // block):
        raise QuantisedWeights("bitsandbytes' nested scales are not as many as they say")
    return codes.float()[values.long()] * largest.float().flatten()[torch.arange(len(values)) // block] + offset


def _said(name: str, state: TensorRef) -> dict[str, Any]:
    """What a state says of itself: JSON, as bytes in a tensor."""
    if state.dtype_name != "uint8" or state.nbytes > _MOST_STATE:
        raise QuantisedWeights(f"{name}: bitsandbytes' quant_state is no text")
    try:
        found = json.loads(bytes(state.load().tolist()))
    except (ValueError, RecursionError) as error:
        raise QuantisedWeights(f"{name}: bitsandbytes' quant_state is not JSON ({error})") from None
    return found if isinstance(found, dict) else {}
