"""Adapters of PEFT's merged into the weights of their base model, each tensor when it is brought in; or, where several
adapters share a base model, kept beside those of its layers that can do without.

LoRA (Hu et al. 2021) with a rank and a scale a layer, rank-stabilised (Kalajdzievski 2023) and DoRA (Liu et al. 2024),
on linear, convolution and embedding layers; IA3 (Liu et al. 2022); and layers that were trained as a whole. Computed in
the order and the precision of PEFT's `merge_and_unload`, so that the result is the same to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch

from score.errors import AdapterUnsupported
from score.formats.base import Adapter, TensorRef, computed
from score.weights import lora
from score.weights.align import Alignment
from score.weights.lora import Lora
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


@dataclass(frozen=True)
class Adapted:
    """A model's weights under its module's own names, and what runs beside its layers, by their names."""

    weights: Candidate
    beside: Mapping[str, Lora] = field(default_factory=dict)


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
    *,
    apart: bool = False,
) -> Adapted:
    """The weights with the adapter merged; `apart`, only where it can't run beside a layer. Raises `AdapterUnsupported`
    for what is not known to be merged so, and where a tensor of the adapter has no place."""
    _refuse_unknown(adapter)
    current = {key: weights.tensors[name] for key, name in alignment.mapping.items()}
    for key, source in _ties_of(module).items():
        if source in current:
            current.setdefault(key, current[source])
    layers, whole, below = _sorted(adapter)
    current |= below
    groups = [set(group) for group in tied]
    merged, beside = dict(current), dict[str, Lora]()
    for name, layer in layers.items():
        owner = _submodule(module, name, adapter)
        alone = not any(f"{name}.weight" in group for group in groups)
        if apart and alone and (found := _beside(module, owner, name, layer, current, adapter)) is not None:
            beside[name] = found
            continue
        for part, ref in _merged(owner, name, layer, current, adapter).items():
            key = f"{name}.{part}"
            for each in {key}.union(*(group for group in groups if key in group)):
                merged[each] = ref
    for name, ref in whole.items():
        _submodule(module, name.rpartition(".")[0], adapter)
        merged[name] = ref
    left = {name: weights.tensors[name] for name in alignment.unexpected}
    return Adapted(replace(weights, tensors=merged | left), beside)


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
    parts, kind = dict(layer.parts), lora.kind_of(owner)
    weight, bias = current.get(f"{name}.weight"), current.get(f"{name}.bias")
    if weight is None or kind is None:
        raise AdapterUnsupported(f"{adapter.name} adapts {name!r}, a {type(owner).__name__}, which is not merged here")
    if "ia3_l" in parts:
        return _ia3(kind, name, parts, weight, bias, adapter)
    matrices = lora.read(owner, kind, name, parts, weight, adapter)

    def delta() -> torch.Tensor:
        found = lora.DELTAS[kind](owner, lora.full(matrices.down.load()), lora.full(matrices.up.load()))
        return (found.t() if kind == "turned" else found) * matrices.scale

    def load() -> torch.Tensor:
        if matrices.magnitude is None:
            made = weight.load().clone()
            made += delta().to(made.dtype) if kind == "embedding" else delta()  # PEFT rounds the one twice
            return made
        return lora.with_magnitude(kind, weight.load(), delta(), lora.full(matrices.magnitude.load()))

    found = {"weight": computed(weight.dtype_name, weight.shape, load)}
    if (shift := matrices.shift) is not None:
        if bias is None:
            raise AdapterUnsupported(f"{adapter.name} has a bias for {name!r}, which has none")

        def load_bias() -> torch.Tensor:
            made = bias.load().clone()
            made += lora.full(shift.load()) * matrices.scale
            return made

        found["bias"] = computed(bias.dtype_name, bias.shape, load_bias)
    return found


def _beside(
    module: torch.nn.Module,
    owner: torch.nn.Module,
    name: str,
    layer: _Layer,
    current: Mapping[str, TensorRef],
    adapter: Adapter,
) -> Lora | None:
    """What can run beside a layer; None for what has to be merged: other layers than linear ones, other ways than plain
    LoRA, and a layer of torch's attention, which reads its weight past it."""
    kind, weight = lora.kind_of(owner), current.get(f"{name}.weight")
    parent = module.get_submodule(name.rpartition(".")[0])
    if kind not in ("linear", "turned") or weight is None or isinstance(parent, torch.nn.MultiheadAttention):
        return None
    if not layer.parts.keys() <= {"lora_A", "lora_B"}:
        return None
    return lora.read(owner, kind, name, dict(layer.parts), weight, adapter)


def _ia3(
    kind: str, name: str, parts: dict[str, TensorRef], weight: TensorRef, bias: TensorRef | None, adapter: Adapter
) -> dict[str, TensorRef]:
    """A factor for each output, or for each input of a feed-forward layer: then it has a row's shape."""
    scale = parts.pop("ia3_l")
    feedforward = len(scale.shape) > 1 and scale.shape[0] == 1 and scale.shape[1] != 1
    if parts or kind not in ("linear", "turned"):
        raise AdapterUnsupported(f"{adapter.name} adapts {name!r} in a way that is not merged here")

    def load() -> torch.Tensor:
        factor = lora.full(scale.load())
        return torch.mul(weight.load(), factor.t() if kind == "turned" else factor).to(weight.dtype)

    found = {"weight": computed(weight.dtype_name, weight.shape, load)}
    if bias is not None and not feedforward:

        def load_bias() -> torch.Tensor:
            return torch.mul(bias.load(), lora.full(scale.load()).reshape(bias.shape)).to(bias.dtype)

        found["bias"] = computed(bias.dtype_name, bias.shape, load_bias)
    return found
