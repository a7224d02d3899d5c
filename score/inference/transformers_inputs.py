"""What a model of transformers takes as tensors: its main input and the others that its `forward` names, with dtypes by
their annotations and shapes as far as the configuration says.

It is a guess: nothing of it is refused that the model itself takes.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from score.inference.infer_signature import call, float_dtype, synthetic
from score.inference.signature import InputSpec, Signature

SOURCE = "transformers' forward"
_NEVER = frozenset(
    ("labels", "return_dict", "use_cache", "past_key_values", "return_loss", "class_labels", "mask_labels")
)
_TOKENS = 8  # of a made-up text
_SAMPLES = 16_000  # of a made-up recording


def is_one(module: nn.Module) -> bool:
    """Whether a module is a model of transformers."""
    return isinstance(getattr(module, "main_input_name", None), str) and hasattr(module, "config")


def find(module: Any) -> Signature:
    """The signature. Inputs that the model can't do without, beside its main one, are found by trying."""
    specs = {spec.name: _shaped(spec, module.config) for spec in _of_forward(module)}
    main = module.main_input_name
    if main not in specs:
        return Signature(tuple(specs.values()), SOURCE, guessed=True)
    others = [name for name in ("decoder_input_ids", "pixel_values", "input_ids", "attention_mask") if name in specs]
    for needed in ([main], *([main, name] for name in others if name != main), [main, *others]):
        found = _requiring(specs, needed)
        if found.known and _answers(module, found):
            return found
    return _requiring(specs, [main])


def _requiring(specs: Mapping[str, InputSpec], needed: Sequence[str]) -> Signature:
    """The signature in which some inputs are required, beside those that `forward` has no default for."""
    found = (replace(spec, required=spec.required or spec.name in needed) for spec in specs.values())
    return Signature(tuple(found), SOURCE, guessed=True)


def _of_forward(module: nn.Module) -> Iterator[InputSpec]:
    floats = str(float_dtype(module)).removeprefix("torch.")
    for name, parameter in inspect.signature(module.forward).parameters.items():
        said = str(parameter.annotation)
        if name in _NEVER or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        needed = parameter.default is parameter.empty
        if name.endswith("mask") or ("Tensor" in said and not any(kind in said.lower() for kind in ("tuple", "list"))):
            yield InputSpec(name, _dtype(name, said, floats), required=needed)
        elif said in ("bool | None", "typing.Optional[bool]", "<class 'bool'>"):
            yield InputSpec(name, "py_bool", required=False)


def _dtype(name: str, annotation: str, floats: str) -> str:
    if "BoolTensor" in annotation:
        return "bool"
    if "LongTensor" in annotation or "IntTensor" in annotation or name.endswith(("_ids", "attention_mask")):
        return "int64"
    return floats


def _shaped(spec: InputSpec, config: Any) -> InputSpec:
    """The spec with a shape and an example of it, where its name says what it is."""
    known = _SHAPES.get(spec.name)
    example = known(config) if known is not None else None
    if example is None:
        return spec
    return replace(spec, shape=(None,) * len(example), example=example)


def _pixels(config: Any) -> tuple[int, ...]:
    side = _of(config, "image_size") or 64
    high, wide = side if isinstance(side, (list, tuple)) else (side, side)
    frames = _of(config, "num_frames")
    channels = int(_of(config, "num_channels") or 3)
    return (2, *((int(frames),) if frames else ()), channels, int(high), int(wide))


def _waves(config: Any) -> tuple[int, ...]:
    if getattr(config, "num_mel_bins", None) and getattr(config, "max_length", None) and hasattr(config, "patch_size"):
        return 2, int(config.max_length), int(config.num_mel_bins)  # a spectrogram
    return 2, _SAMPLES


def _features(config: Any) -> tuple[int, ...] | None:
    bins, places = _of(config, "num_mel_bins"), _of(config, "max_source_positions")
    return (2, int(bins), 2 * int(places)) if bins and places else None


def _series(config: Any) -> tuple[int, ...] | None:
    length = getattr(config, "context_length", None)
    if not isinstance(length, int):
        return None
    if lags := getattr(config, "lags_sequence", None):
        size = getattr(config, "input_size", 1)
        return (2, length + max(lags), *(() if size == 1 else (size,)))
    channels = getattr(config, "num_input_channels", None)
    return (2, length, channels) if isinstance(channels, int) else (2, length)


def _times(config: Any) -> tuple[int, ...] | None:
    """Features of each step of a series."""
    series, count = _series(config), getattr(config, "num_time_features", None)
    return (*series[:2], count) if series is not None and isinstance(count, int) else None


def _text(_config: Any) -> tuple[int, ...]:
    return 2, _TOKENS


_SHAPES: dict[str, Callable[[Any], tuple[int, ...] | None]] = {
    **dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids"), _text),
    "pixel_values": _pixels,
    "input_values": _waves,
    "input_features": _features,
    "past_values": _series,
    "past_observed_mask": _series,
    "past_time_features": _times,
}


def _of(config: Any, name: str) -> Any:
    """A number of the configuration, or of one within."""
    for each in (config, *vars(config).values()):
        if hasattr(each, "model_type") and (found := getattr(each, name, None)):
            return found
    return None


def _answers(module: nn.Module, signature: Signature) -> bool:
    """Whether the model takes what is required, made up."""
    try:
        call(module, synthetic(signature), [spec.name for spec in signature.inputs], by_name=True)
    except Exception:  # noqa: BLE001  # a model raises anything on what it does not take
        return False
    return True
