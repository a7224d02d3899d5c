"""What sentence-transformers puts behind a text model: pooling, dense layers, normalisation; from its `modules.json`.

Source: sentence_transformers/sentence_transformer/modules/pooling.py and layer_norm.py, base/modules/dense.py and
normalize.py.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

MOST_BYTES = 1_000_000
# Older folders have a switch for each mode; in this order, several are put side by side.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ReadWeights = Callable[[Path], Mapping[str, torch.Tensor]]


class Unknown(ValueError):
    """A module or a setting that is not known here: without it, the embedding would be another."""


class Pooling(nn.Module):
    """States [N, T, H] and their mask [N, T] to [N, H x modes]."""

    def __init__(self, modes: tuple[str, ...]) -> None:
        super().__init__()
        self.modes = modes

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([_POOLINGS[mode](states, mask) for mode in self.modes], dim=-1)


def _cls(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[torch.arange(len(states), device=states.device), mask.int().argmax(1)]


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    last = mask.shape[1] - 1 - mask.int().flip(1).argmax(1)
    return (states * mask[..., None].to(states.dtype))[torch.arange(len(states), device=states.device), last]


def _max(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(mask[..., None] == 0, float("-inf")).amax(1)


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _sums(states, mask)
    return (total / count).to(states.dtype)


def _mean_by_root(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _sums(states, mask)
    return (total / count.sqrt()).to(states.dtype)


def _sums(states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wide = torch.float32 if states.dtype in (torch.float16, torch.bfloat16) else states.dtype
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1, dtype=wide), weights.sum(1, dtype=wide).clamp(min=1e-9)


def _weighted(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    wide = torch.float32 if states.dtype in (torch.float16, torch.bfloat16) else states.dtype
    places = torch.arange(1, mask.shape[1] + 1, device=states.device, dtype=wide)[None] - mask.int().argmax(1)[:, None]
    weights = (mask.to(wide) * places)[..., None]
    return ((states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)).to(states.dtype)


_POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _cls, "max": _max, "mean": _mean, "mean_sqrt_len_tokens": _mean_by_root, "weightedmean": _weighted,
    "lasttoken": _last,
}  # fmt: skip


class Dense(nn.Module):
    """[N, in] to [N, out], with the values of its own file."""

    def __init__(self, weights: Mapping[str, torch.Tensor], activation: nn.Module, residual: bool) -> None:
        super().__init__()
        for name, key in (("weight", "linear.weight"), ("bias", "linear.bias"), ("across", "residual.weight")):
            self.register_buffer(name, weights.get(key), persistent=False)
        self.activation, self.residual = activation, residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.activation(nn.functional.linear(x, self.weight, self.bias))  # type: ignore[arg-type]
        if not self.residual:
            return found
        across = x if self.across is None else nn.functional.linear(x, self.across)  # type: ignore[arg-type]
        return found + across


class Normalize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x, p=2, dim=1)


class LayerNorm(nn.Module):
    """[N, H] to the same, with the values of its own file."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.register_buffer("weight", weights["norm.weight"], persistent=False)
        self.register_buffer("bias", weights["norm.bias"], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias)  # type: ignore[arg-type]


class SentenceEncoder(nn.Module):
    """A text model with what follows it: [N, T] to embeddings [N, H]."""

    def __init__(self, model: nn.Module, pooling: nn.Module, *rest: nn.Module):
        super().__init__()
        self.model, self.pooling, self.rest = model, pooling, nn.Sequential(*rest)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state
        found: torch.Tensor = self.rest(self.pooling(states, attention_mask))
        return found


def modules(folder: Path, read: ReadWeights) -> list[nn.Module] | None:
    """The pooling and what follows it, as `modules.json` says; None where there is none. `read` gives the tensors of a
    folder's weights. Raises `Unknown`."""
    if not (folder / "modules.json").is_file():
        return None
    listed = read_json(folder / "modules.json")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise Unknown("modules.json is not a list of modules")
    kinds = [str(entry.get("type", "")).rpartition(".")[2] for entry in listed]
    if kinds == ["Transformer"] and is_cross_encoder(folder):
        return None
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise Unknown(f"modules.json begins with {', '.join(kinds[:2]) or 'nothing'}, not with Transformer and Pooling")
    return [_module(folder, kind, entry, read) for kind, entry in zip(kinds[1:], listed[1:], strict=True)]


def _module(folder: Path, kind: str, entry: Mapping[str, Any], read: ReadWeights) -> nn.Module:
    place = str(entry.get("path", ""))
    if not place.replace("_", "").isalnum():
        raise Unknown(f"modules.json places {kind} in {place!r}")
    if kind == "Normalize":
        return Normalize()
    if kind == "Dropout":
        return nn.Identity()  # of training only
    config = read_json(folder / place / "config.json")
    if not isinstance(config, dict):
        raise Unknown(f"{place}/config.json is missing or no JSON object")
    if kind == "Pooling":
        return Pooling(_modes(config))
    if kind == "LayerNorm":
        return _layer_norm(config, read(folder / place), place)
    if kind == "Dense":
        return _dense(config, read(folder / place), place)
    raise Unknown(f"modules.json has a {kind}, which is not known here")


def _modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    said = config.get("pooling_mode")
    if said is None:
        modes = tuple(mode for name, mode in _SWITCHES.items() if config.get(name) is True) or ("mean",)
    else:
        modes = (said,) if isinstance(said, str) else tuple(map(str, said)) if isinstance(said, list) else ()
    if not modes or not set(modes) <= _POOLINGS.keys():
        raise Unknown(f"the pooling {said!r} is none of {', '.join(_POOLINGS)}")
    return modes


def _dense(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], place: str) -> Dense:
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    cls = getattr(nn, name.rpartition(".")[2], None)
    if not name.startswith("torch.nn.modules.") or not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise Unknown(f"{place} has the activation {name}, which is not one of torch.nn")
    if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise Unknown(f"{place} takes {config['module_input_name']}, not the embedding")
    sizes = config.get("out_features"), config.get("in_features")
    weight, residual = weights.get("linear.weight"), bool(config.get("use_residual", False))
    needs_bias, needs_across = config.get("bias", True), residual and sizes[0] != sizes[1]
    if (
        weight is None
        or tuple(weight.shape) != sizes
        or (needs_bias and "linear.bias" not in weights)
        or (needs_across and "residual.weight" not in weights)
    ):
        raise Unknown(f"the weights in {place} are not those of a layer from {sizes[1]} to {sizes[0]}")
    return Dense(weights, cls(), residual)


def _layer_norm(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], place: str) -> LayerNorm:
    size = config.get("dimension")
    if any(name not in weights or tuple(weights[name].shape) != (size,) for name in ("norm.weight", "norm.bias")):
        raise Unknown(f"the weights in {place} are not those of a normalisation of {size} numbers")
    return LayerNorm(weights)


def is_cross_encoder(folder: Path) -> bool:
    """Whether sentence-transformers 6 wrote a cross-encoder: nothing is behind its text model."""
    said = read_json(folder / "config_sentence_transformers.json")
    return isinstance(said, dict) and said.get("model_type") == "CrossEncoder"


def read_json(path: Path) -> Any:
    """A small JSON file of the folder; None where there is none."""
    if not path.is_file() or path.is_symlink() or path.stat().st_size > MOST_BYTES:
        return None
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
