"""Adapters of PEFT's merged into the weights of their base model, each tensor when it is brought in.

LoRA (Hu et al. 2021) with a rank and a scale a layer, rank-stabilised (Kalajdzievski 2023) and DoRA (Liu et al. 2024),
on linear, convolution and embedding layers; IA3 (Liu et al. 2022); and layers that were trained as a whole. Computed in
the order and the precision of PEFT's `merge_and_unload`, so that the result is the same to the bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from score.errors import AdapterUnsupported
from score.formats.base import Adapter, TensorRef, computed
from score.weights.align import Alignment
from score.weights.select import Candidate

_PREFIX = re.compile(r"^base_model\.model\.")
_PART = re.compile(
    r"^(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|ia3_l)"
    r"(\.default)?(\.(?P<of>weight|bias))?$"
)
# What a configuration may say without changing how the tensors are merged; what is not here has to be unset.
_KNOWN = frozenset(
    (
        *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
        *("bias", "use_rslora", "use_dora", "lora_bias", "modules_to_save", "init_lora_weights", "rank_pattern"),
        *("layers_to_transform", "layers_pattern", "alpha_pattern", "megatron_core", "ensure_weight_tying"),
        *("feedforward_modules", "init_ia3_weights", "qalora_group_size", "eva_config", "lora_ga_config"),
        *("velora_config", "monteclora_config", "runtime_config"),
    )
)
# Ways to begin that change the base model too, which is not in the adapter.
_CHANGES_BASE = re.compile(r"pissa|olora|loftq|corda|lora_ga", re.I)
MOST_PATTERNS = 1000
_WILD = 1  # `.*` in a pattern: each more is a name's length times as many steps


@dataclass(frozen=True)
class _Layer:
    """What an adapter has for one layer, by the part's name: `lora_A.weight`, `ia3_l`."""

    parts: dict[str, TensorRef] = field(default_factory=dict)


def applied(
    module: torch.nn.Module,
    tied: Iterable[Iterable[str]],
    alignment: Alignment,
    weights: Candidate,
    adapter: Adapter,
) -> Candidate:
    """The weights under the module's own names, with the adapter merged. Raises `AdapterUnsupported` for what is not
    known to be merged so, and where a tensor of the adapter has no place."""
    _refuse_unknown(adapter)
    current = {key: weights.tensors[name] for key, name in alignment.mapping.items()}
    for key, source in _ties_of(module).items():
        if source in current:
            current.setdefault(key, current[source])
    layers, whole, below = _sorted(adapter)
    current |= below
    groups = [set(group) for group in tied]
    merged = dict(current)
    for name, layer in layers.items():
        owner = _submodule(module, name, adapter)
        for part, ref in _merged(owner, name, layer, current, adapter).items():
            key = f"{name}.{part}"
            for each in {key}.union(*(group for group in groups if key in group)):
                merged[each] = ref
    for name, ref in whole.items():
        _submodule(module, name.rpartition(".")[0], adapter)
        merged[name] = ref
    left = {name: weights.tensors[name] for name in alignment.unexpected}
    return replace(weights, tensors=merged | left)


def _refuse_unknown(adapter: Adapter) -> None:
    kind = str(adapter.config.get("peft_type", "LORA")).upper()
    if kind not in ("LORA", "IA3"):
        raise AdapterUnsupported(f"{adapter.name} is an adapter of the kind {kind}, which is not merged here")
    unknown = sorted(key for key, value in adapter.config.items() if value and key not in _KNOWN)
    if unknown:
        raise AdapterUnsupported(f"{adapter.name} sets {', '.join(unknown)}, which is not known here")
    begun = str(adapter.config.get("init_lora_weights", ""))
    if _CHANGES_BASE.search(begun):
        raise AdapterUnsupported(
            f"{adapter.name} began as {begun}, which changes the base model's weights by a factorisation of them"
        )


def _sorted(adapter: Adapter) -> tuple[dict[str, _Layer], dict[str, TensorRef], dict[str, TensorRef]]:
    """An adapter's tensors by layer, those that take the place of one of the base model's, and those that do so before
    the adapter is merged into them: embeddings, which PEFT saves with their adapter."""
    layers: dict[str, _Layer] = {}
    whole: dict[str, TensorRef] = {}
    below: dict[str, TensorRef] = {}
    for full, ref in adapter.tensors.items():
        name = _PREFIX.sub("", full)
        found = _PART.match(name)
        if found is None and ".base_layer." in name:
            below[name.replace(".base_layer.", ".")] = ref
            continue
        if found is None:
            whole[name.replace(".modules_to_save.default.", ".")] = ref
            continue
        part = found["part"] + (".bias" if found["of"] == "bias" else "")
        layers.setdefault(found["layer"], _Layer()).parts[part] = ref
    return layers, whole, below


def _submodule(module: torch.nn.Module, name: str, adapter: Adapter) -> torch.nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise AdapterUnsupported(
            f"{adapter.name} adapts {name!r}, and {type(module).__name__} has no such layer",
            hint="See that base model and adapter belong together: SCORE_BASE names the base.",
        ) from None


def _ties_of(module: torch.nn.Module) -> Mapping[str, str]:
    """Where a class of transformers would take a tensor from that its file leaves out, though its configuration says
    that the two are apart now."""
    said = getattr(module, "_tied_weights_keys", None)
    return said if isinstance(said, dict) else {}


def _merged(
    owner: torch.nn.Module, name: str, layer: _Layer, current: Mapping[str, TensorRef], adapter: Adapter
) -> dict[str, TensorRef]:
    """The tensors of one layer with what the adapter has for it, by the layer's own names for them."""
    parts, kind = dict(layer.parts), _kind(owner)
    weight, bias = current.get(f"{name}.weight"), current.get(f"{name}.bias")
    if weight is None or kind is None:
        raise AdapterUnsupported(f"{adapter.name} adapts {name!r}, a {type(owner).__name__}, which is not merged here")
    if "ia3_l" in parts:
        return _ia3(kind, name, parts, weight, bias, adapter)
    letters = ("lora_embedding_A", "lora_embedding_B") if kind == "embedding" else ("lora_A", "lora_B")
    if not set(letters) <= parts.keys():
        raise AdapterUnsupported(f"{adapter.name} has {', '.join(sorted(parts))} for {name!r}, and not {letters[0]}")
    down, up = (parts.pop(letter) for letter in letters)
    magnitude, shift = parts.pop("lora_magnitude_vector", None), parts.pop("lora_B.bias", None)
    if parts or (magnitude is None) == bool(adapter.config.get("use_dora")):
        raise AdapterUnsupported(f"{adapter.name}: the tensors for {name!r} are not those that its configuration says")
    scale = scaling(adapter.config, name, _rank(down, up, kind))
    turned = kind == "turned"
    _require_shape(_DELTAS[kind], owner, (down, up), weight, name, adapter)

    def delta() -> torch.Tensor:
        found = _DELTAS[kind](owner, _full(down.load()), _full(up.load()))
        return (found.t() if turned else found) * scale

    def load() -> torch.Tensor:
        if magnitude is None:
            made = weight.load().clone()
            made += delta().to(made.dtype) if kind == "embedding" else delta()  # PEFT rounds the one twice
            return made
        return _dora(kind, weight.load(), delta(), _full(magnitude.load()))

    found = {"weight": computed(weight.dtype_name, weight.shape, load)}
    if shift is not None:
        if bias is None:
            raise AdapterUnsupported(f"{adapter.name} has a bias for {name!r}, which has none")

        def load_bias() -> torch.Tensor:
            made = bias.load().clone()
            made += _full(shift.load()) * scale
            return made

        found["bias"] = computed(bias.dtype_name, bias.shape, load_bias)
    return found


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """PEFT computes with adapters in single precision, whatever they were saved in."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _kind(owner: torch.nn.Module) -> str | None:
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


_DELTAS: dict[str, Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]] = {
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
        shape = tuple(made.t().shape if _kind(owner) == "turned" else made.shape)
    except (RuntimeError, IndexError):
        shape = ()
    if shape != weight.shape:
        raise AdapterUnsupported(
            f"{adapter.name} has matrices of shapes {[list(ref.shape) for ref in matrices]} for {name!r}, whose weight "
            f"is {list(weight.shape)}",
            hint="See that base model and adapter belong together: SCORE_BASE names the base.",
        )


def _dora(kind: str, weight: torch.Tensor, delta: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
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


def _ia3(
    kind: str, name: str, parts: dict[str, TensorRef], weight: TensorRef, bias: TensorRef | None, adapter: Adapter
) -> dict[str, TensorRef]:
    """A factor for each output, or for each input of a feed-forward layer: then it has a row's shape."""
    scale = parts.pop("ia3_l")
    feedforward = len(scale.shape) > 1 and scale.shape[0] == 1 and scale.shape[1] != 1
    if parts or kind not in ("linear", "turned"):
        raise AdapterUnsupported(f"{adapter.name} adapts {name!r} in a way that is not merged here")

    def load() -> torch.Tensor:
        factor = _full(scale.load())
        return torch.mul(weight.load(), factor.t() if kind == "turned" else factor).to(weight.dtype)

    found = {"weight": computed(weight.dtype_name, weight.shape, load)}
    if bias is not None and not feedforward:

        def load_bias() -> torch.Tensor:
            return torch.mul(bias.load(), _full(scale.load()).reshape(bias.shape)).to(bias.dtype)

        found["bias"] = computed(bias.dtype_name, bias.shape, load_bias)
    return found


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
