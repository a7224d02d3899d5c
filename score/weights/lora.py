"""What LoRA has for a layer, and what that makes of the layer's weight.

Hu et al. 2021; rank-stabilised, Kalajdzievski 2023; DoRA, Liu et al. 2024. In the order and the precision of PEFT's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from score.errors import AdapterUnsupported
from score.formats.base import Adapter, TensorRef

MOST_PATTERNS = 1000
_WILD = 1  # `.*` in a pattern: each more is a name's length times as many steps


@dataclass(frozen=True)
class Lora:
    """What LoRA has for a layer: its output gets `up @ down @ input`, times `scale`. With DoRA a magnitude for each
    output, and perhaps a bias."""

    down: TensorRef
    up: TensorRef
    scale: float
    magnitude: TensorRef | None = None
    shift: TensorRef | None = None


def read(
    owner: torch.nn.Module, kind: str, name: str, parts: dict[str, TensorRef], weight: TensorRef, adapter: Adapter
) -> Lora:
    """A layer's matrices, which fit it. Raises `AdapterUnsupported`."""
    letters = ("lora_embedding_A", "lora_embedding_B") if kind == "embedding" else ("lora_A", "lora_B")
    if not set(letters) <= parts.keys():
        raise AdapterUnsupported(f"{adapter.name} has {', '.join(sorted(parts))} for {name!r}, and not {letters[0]}")
    down, up = (parts.pop(letter) for letter in letters)
    magnitude, shift = parts.pop("lora_magnitude_vector", None), parts.pop("lora_B.bias", None)
    if parts or (magnitude is None) == bool(adapter.config.get("use_dora")):
        raise AdapterUnsupported(f"{adapter.name}: the tensors for {name!r} are not those that its configuration says")
    scale = scaling(adapter.config, name, _rank(down, up, kind))
    _require_shape(DELTAS[kind], owner, (down, up), weight, name, adapter)
    return Lora(down, up, scale, magnitude, shift)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """PEFT computes with adapters in single precision, whatever they were saved in."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def kind_of(owner: torch.nn.Module) -> str | None:
    """How a layer's weight lies: as torch's, or turned, as the Conv1D of GPT-2 has it."""
    if isinstance(owner, torch.nn.Linear):
        return "linear"
    if isinstance(owner, torch.nn.Embedding):
        return "embedding"
    if isinstance(owner, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        return "convolution"
    return "turned" if type(owner).__name__ == "Conv1D" and hasattr(owner, "nf") else None


def _linear(_owner: torch.nn.Module, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return up @ down


def _embedding(_owner: torch.nn.Module, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return (up @ down).t()


def _convolution(owner: torch.nn.Module, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    assert isinstance(owner, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d))
    if owner.weight.ndim == 4 and owner.weight.shape[2:] == (1, 1):
        return (up.squeeze(3).squeeze(2) @ down.squeeze(3).squeeze(2)).unsqueeze(2).unsqueeze(3)
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[
        owner.weight.ndim - 3
    ]
    found = convolve(down.transpose(0, 1), up)
    return found if owner.groups > 1 else found.transpose(0, 1)


DELTAS: dict[str, Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "linear": _linear,
    "turned": _linear,
    "embedding": _embedding,
    "convolution": _convolution,
}


def _rank(down: TensorRef, up: TensorRef, kind: str) -> int:
    rank = down.shape[0] if down.shape else 0
    if rank == 0 or len(up.shape) < 2 or up.shape[1] != rank:
        raise AdapterUnsupported(f"LoRA matrices of shapes {list(down.shape)} and {list(up.shape)} have no common rank")
    return rank


def _require_shape(
    delta: Callable[..., torch.Tensor],
    owner: torch.nn.Module,
    matrices: tuple[TensorRef, TensorRef],
    weight: TensorRef,
    name: str,
    adapter: Adapter,
) -> None:
    try:
        made = delta(owner, *(torch.empty(ref.shape, device="meta") for ref in matrices))
        shape = tuple(made.t().shape if kind_of(owner) == "turned" else made.shape)
    except (RuntimeError, IndexError):
        shape = ()
    if shape != weight.shape:
        raise AdapterUnsupported(
            f"{adapter.name} has matrices of shapes {[list(ref.shape) for ref in matrices]} for {name!r}, whose weight "
            f"is {list(weight.shape)}",
            hint="See that base model and adapter belong together: SCORE_BASE names the base.",
        )


def with_magnitude(kind: str, weight: torch.Tensor, delta: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Liu et al. 2024, equation 5: the magnitude learned, the direction of the sum."""
    if kind == "convolution":
        both = weight + delta
        norm = both.norm(p=2, dim=tuple(range(1, both.dim())), keepdim=True).transpose(1, 0)
        factor = (magnitude / norm).view(-1, *[1] * (weight.ndim - 1))
    else:
        across = weight.t() + delta.t() if kind in ("turned", "embedding") else weight + delta
        norm = torch.linalg.norm(across, dim=1).to(across.dtype)
        factor = (magnitude / norm).view(*((1, -1) if kind in ("turned", "embedding") else (-1, 1)))
    made: torch.Tensor = (factor * (weight + delta)).to(weight.dtype)
    return made


def scaling(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """What a layer's product is multiplied by: alpha over the rank, or over its root. Raises `AdapterUnsupported`."""
    said = config.get("alpha_pattern")
    patterns = said if isinstance(said, dict) else {}
    if len(patterns) > MOST_PATTERNS:
        raise AdapterUnsupported(f"the adapter's configuration has {len(patterns):,} patterns for alpha")
    alpha = next((value for pattern, value in patterns.items() if _matches(str(pattern), layer)), None)
    alpha = config.get("lora_alpha") if alpha is None else alpha
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise AdapterUnsupported(f"the adapter's configuration says {alpha!r} for lora_alpha")
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _matches(pattern: str, layer: str) -> bool:
    """As PEFT compares them: the layer's name, or what is behind one of its points, is the pattern's. A pattern of a
    file's is tried only where that is quick."""
    wild = pattern.replace(r"\.", ".").replace(r"\d+", "0")
    if (
        wild.count(".*") > _WILD
        or pattern.count(r"\d+") > 2 * _WILD
        or re.search(r"[+{(\[|?]", wild)
        or "*" in wild.replace(".*", "")
        or len(layer) > 500
    ):
        raise AdapterUnsupported(
            f"the adapter's configuration has the pattern {pattern!r:.100}, which is not read here"
        )
    try:
        whole = re.compile(pattern)
    except re.error:
        raise AdapterUnsupported(f"the adapter's configuration has the pattern {pattern!r:.100}: it is none") from None
    starts = (0, *(match.end() for match in re.finditer(r"\.", layer)))
    begins = pattern.startswith("^")
    return any(whole.fullmatch(layer[start:]) for start in (starts[:1] if begins else starts))
