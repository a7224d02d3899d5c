"""Learn what a model takes where nobody said: from its program, its first layer, and by trying.

A guess only counts once the model has taken it, and treats each row of a batch by itself.
"""

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from score.errors import InvalidSetting
from score.inference import dynamic_ranges, watchdog
from score.inference.signature import InputSpec, Shape, Signature, parse

# Sizes that image and sequence models are commonly made for.
_SIDES = (8, 16, 28, 32, 64, 96, 128, 160, 224, 256, 299, 384)
_LENGTHS = (16, 64, 128, 512)
_STEPS = 0.05  # of the largest answer: how far integers of 8 bits may be apart that stand for other ranges
LARGEST_MADE_UP = 1 << 30  # bytes of an input that is made up
_LARGEST_TO_PROBE = 2_000_000_000  # bytes of weights; each trial reads all of them


def find(module: nn.Module, declared: str | dict[str, str] | None, source: str) -> Signature:
    """The signature: as declared, as an exported program says, as found by trying, or just the inputs' names."""
    names = _input_names(module)
    order = [spec.name for spec in names]
    declared, source = (declared, source) if declared else (getattr(module, "takes", None), "the architecture")
    if declared:
        return _with_examples(parse(declared, order, source))
    exported = _exported(module)
    if exported is not None:
        return exported
    required = [spec for spec in names if spec.required]
    if len(required) == 1 and not required[0].scalar and _weight_bytes(module) <= _LARGEST_TO_PROBE:
        one_range = dynamic_ranges.shared(module)
        for guess in _guesses(module, required[0]):
            if _takes(module, guess, order, one_range):
                others = tuple(spec for spec in names if spec is not required[0])
                return Signature(
                    (_generalised(module, guess, order, one_range), *others), "found by trying", guessed=True
                )
    return Signature(tuple(names), "the parameters of forward", guessed=True)


def of_weights(signature: Signature, dtype: torch.dtype) -> Signature:
    """A recorded signature with the floats of the model's own weights: numpy's are doubles, whatever was meant."""
    floats = {spec.name for spec in signature.inputs if not spec.scalar and spec.torch_dtype.is_floating_point}
    name = str(dtype).removeprefix("torch.")
    return replace(
        signature,
        inputs=tuple(replace(spec, dtype=name) if spec.name in floats else spec for spec in signature.inputs),
    )


def synthetic(signature: Signature, rows: int = 1) -> dict[str, torch.Tensor | int | float | bool]:
    """Inputs of the right shapes, made up: reproducible, small values."""
    generator = torch.Generator().manual_seed(0)
    return {spec.name: _made_up(spec, rows, generator) for spec in signature.inputs if spec.required}


def as_lists(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Made-up inputs as JSON has them."""
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def _made_up(spec: InputSpec, rows: int, generator: torch.Generator) -> Any:
    if spec.scalar:
        return {"py_int": 1, "py_float": 1.0, "py_bool": False}[spec.dtype]
    dtype = spec.torch_dtype
    shape = sized(spec, rows)
    if math.prod(shape) * dtype.itemsize > LARGEST_MADE_UP:
        raise InvalidSetting(
            f"{spec.name}: {spec} takes {math.prod(shape) * dtype.itemsize / 1e9:,.0f} GB a request",
            hint="Correct SCORE_INPUTS, or what the architecture or the file says that it takes.",
        )
    if dtype.is_floating_point or dtype.is_complex:
        return torch.rand(shape, generator=generator).to(dtype)
    return torch.zeros(shape, dtype=dtype)


def sized(spec: InputSpec, rows: int) -> tuple[int, ...]:
    """A shape of an input with so many rows: its example's, or the smallest that it may have."""
    shape = spec.example or tuple(1 if size is None else size for size in spec.shape or (1,))
    return (rows, *shape[1:]) if spec.shape is None or (spec.shape and spec.shape[0] is None) else shape


def input_names(module: nn.Module) -> list[str]:
    """The names of a module's inputs, in its order."""
    return [spec.name for spec in _input_names(module)]


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are; the CPU where it has none."""
    held = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in held), torch.device("cpu"))


def call(
    module: nn.Module,
    inputs: dict[str, Any],
    order: list[str],
    device: torch.device | None = None,
    *,
    by_name: bool = False,
) -> Any:
    """Run the module on inputs by name: by position as long as `order` (`input_names`) allows, since names may be
    mangled, or always `by_name`. `device` spares looking for it."""
    device = device or device_of(module)
    placed = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    with torch.inference_mode(), watchdog.forward_pass():
        if not by_name and (list(placed) == order[: len(placed)] or not set(placed) <= set(order)):
            return module(*placed.values())
        return module(**placed)


def _input_names(module: nn.Module) -> list[InputSpec]:
    """The parameters of `forward`, without shapes."""
    dtype = _default_dtype(module)
    if isinstance(module, torch.jit.ScriptModule):
        forward: Any = module.forward
        arguments = list(forward.schema.arguments)[1:]
        return [_script_input(argument, dtype) for argument in arguments]
    if isinstance(takes := getattr(module, "takes_exported", None), tuple):
        return [InputSpec(item.name, item.dtype) for item in takes]
    placeholders = _placeholders(module)
    if placeholders:
        return [InputSpec(str(node.target), dtype) for node in placeholders]
    if isinstance(takes := getattr(module, "takes", None), dict):  # a session that knows its inputs
        return [InputSpec(name, dtype) for name in takes]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return [
        InputSpec(parameter.name, dtype, required=parameter.default is parameter.empty)
        for parameter in parameters
        if parameter.kind in kinds
    ] or [InputSpec("input", dtype)]  # forward(*args)


def _script_input(argument: Any, dtype: str) -> InputSpec:
    kind = str(argument.type)
    scalar = f"py_{kind}" if kind in ("int", "float", "bool") else dtype
    return InputSpec(argument.name, scalar, required=not argument.has_default_value() and "Optional" not in kind)


def _default_dtype(module: nn.Module) -> str:
    """What an input of unknown dtype is cast to: token ids for a model that starts with an embedding, else the dtype
    of the model's own weights."""
    part, _ = _first_layer(module)
    if part is not None and _kind(part) in ("Embedding", "EmbeddingBag"):
        return "int64"
    return str(float_dtype(module)).removeprefix("torch.")


def float_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a module's first floating-point weight; float32 where it has none."""
    return next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)


def _kind(part: nn.Module) -> str:
    return str(getattr(part, "original_name", type(part).__name__))


def _placeholders(module: nn.Module) -> list[Any]:
    if isinstance(module, torch.fx.GraphModule):
        return [node for node in module.graph.nodes if node.op == "placeholder" and "val" in node.meta]
    return []


def _exported(module: nn.Module) -> Signature | None:
    """The signature that torch.export recorded: a symbolic size is any size."""
    if isinstance(takes := getattr(module, "takes_exported", None), tuple):
        return Signature(
            tuple(
                InputSpec(item.name, item.dtype)
                if item.dtype.startswith("py_")
                else InputSpec(item.name, item.dtype, item.shape, item.example)
                for item in takes
            ),
            "the exported program",
        )
    specs = []
    for node in _placeholders(module):
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            return None
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        example = tuple(int(size) if isinstance(size, int) else 2 for size in value.shape)
        specs.append(InputSpec(str(node.target), str(value.dtype).removeprefix("torch."), shape, example))
    return Signature(tuple(specs), "the exported program") if specs else None


def _weight_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.parameters())


def _guesses(module: nn.Module, spec: InputSpec) -> Iterator[InputSpec]:
    """What the first layer with weights suggests, likeliest first. Batch first throughout."""
    part, shape = _first_layer(module)
    if part is not None:
        yield from _for_layer(part, shape, spec)


def _first_layer(module: nn.Module) -> tuple[nn.Module | None, tuple[int, ...]]:
    """The first layer with weights, and their shape; of torch's quantised layers too, which keep them packed."""
    for part in module.modules():
        if (own := next(part.parameters(recurse=False), None)) is not None:
            return part, tuple(own.shape)
        if not type(part).__module__.startswith("torch.ao.nn."):
            continue
        if callable(weight := getattr(part, "weight", None)):
            return part, tuple(weight().shape)
        if isinstance(size := getattr(part, "input_size", None), int):
            return part, (0, size)
    return None, ()


def _for_layer(part: nn.Module, shape: tuple[int, ...], spec: InputSpec) -> Iterator[InputSpec]:
    kind = _kind(part)

    def guess(wanted: Shape, *free: int) -> InputSpec:
        sizes = iter(free)
        example = (2, *(size if size is not None else next(sizes) for size in wanted[1:]))
        return replace(spec, shape=wanted, example=example)

    groups = int(getattr(part, "groups", 1) or 1)
    if kind.startswith("Conv") and len(shape) in (3, 4, 5) and "Transpose" not in kind:
        channels, dims = shape[1] * groups, len(shape) - 2
        for side in _SIDES if dims > 1 else _LENGTHS:
            yield guess((None, channels, *[None] * dims), *[side] * dims)
    elif kind in ("Embedding", "EmbeddingBag"):
        yield guess((None, None), 8)
    elif kind in ("LSTM", "GRU", "RNN") and len(shape) == 2 and getattr(part, "batch_first", True):
        yield guess((None, None, shape[1]), 8)
    elif len(shape) == 2 and "Linear" in kind:
        yield guess((None, shape[1]))
        yield guess((None, None, shape[1]), 8)
        side = int((shape[1]) ** 0.5)
        if side * side == shape[1]:  # a network that flattens a square image itself
            yield guess((None, 1, side, side))
    elif kind.startswith(("BatchNorm", "LayerNorm")):
        yield guess((None, *shape))


def _takes(module: nn.Module, spec: InputSpec, order: list[str], one_range: bool) -> bool:
    """Whether the model accepts the guess and answers each row as it would answer it alone. The first output decides:
    recurrent networks add states whose batch is not in front."""
    batch = synthetic(Signature((spec,), ""), rows=2)[spec.name]
    assert isinstance(batch, torch.Tensor)
    try:
        both, alone = (_first(call(module, {spec.name: rows}, order)) for rows in (batch, batch[1:]))
    except Exception:  # noqa: BLE001  # a wrong guess makes a model raise anything
        return False
    if both is None or alone is None or both.shape[:1] != (2,) or alone.shape[:1] != (1,):
        return False
    if one_range:  # rows share the steps that their range is cut into
        return torch.allclose(both[1:], alone, rtol=0, atol=_STEPS * float(alone.abs().max()))
    return torch.allclose(both[1:], alone, rtol=tolerance(both.dtype), atol=1e-4, equal_nan=True)


def tolerance(dtype: torch.dtype) -> float:
    """How far, relatively, values of a dtype may be apart that were computed in different ways."""
    return max(1e-3, 4 * torch.finfo(dtype).eps) if dtype.is_floating_point else 1e-3


def _generalised(module: nn.Module, spec: InputSpec, order: list[str], one_range: bool) -> InputSpec:
    """A size that was tried and must be just that is fixed in the shape. Sizes are tried alone and all together, since
    many models take any square; one that goes with the others stays free."""
    assert spec.shape is not None and spec.example is not None
    shape = list(spec.shape)
    free = [axis for axis in range(1, len(shape)) if shape[axis] is None]

    def takes(axes: list[int], factor: int) -> bool:
        other = tuple(factor * size if at in axes else size for at, size in enumerate(spec.example or ()))
        return _takes(module, replace(spec, example=other), order, one_range)

    together = len(free) > 1 and any(takes(free, factor) for factor in (2, 4))
    for axis in free:
        if not together and not any(takes([axis], factor) for factor in (2, 4)):
            shape[axis] = spec.example[axis]
    return replace(spec, shape=tuple(shape))


def _with_examples(signature: Signature) -> Signature:
    """Sizes to try for the dimensions that a declared signature leaves open."""
    specs = []
    for spec in signature.inputs:
        free = spec.shape is not None and None in spec.shape[1:]
        side = 64 if spec.shape is not None and len(spec.shape) >= 4 else 8
        example = tuple(side if size is None else size for size in spec.shape or ()) if free else None
        specs.append(replace(spec, example=example))
    return replace(signature, inputs=tuple(specs))


def _first(value: Any) -> torch.Tensor | None:
    """The first tensor of an answer."""
    if isinstance(value, torch.Tensor):
        return value
    items = list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, (list, tuple)) else []
    return _first(items[0]) if items else None
