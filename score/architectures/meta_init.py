"""Construct a module without paying for values that the checkpoint will replace."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn

from score.errors import ArchitectureBroken, LoadError
from score.imports.definitions import left_out

Build = Callable[[], nn.Module]

_INITIALISERS = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]


@dataclass(frozen=True, eq=False)
class Skeleton:
    """The model's class, built without values: `module` is on the meta device, `build()` makes one afresh.

    `source` says how it was found, `inputs` what the class says it takes.
    """

    name: str
    source: str
    build: Build
    module: nn.Module
    inputs: str | dict[str, str] | None = None
    home: str = ""  # the Python module that the class, or the function that builds it, is of
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # what it was built with


@dataclass(frozen=True, eq=False)
class Complete:
    """A model that comes with its weights: a program, or a pickled module. `build(device)` gives it in evaluation
    mode."""

    name: str
    source: str
    build: Callable[[torch.device], nn.Module]


Architecture = Skeleton | Complete


def skeleton(
    name: str,
    cls: Callable[..., Any],
    kwargs: Mapping[str, Any],
    *,
    source: str,
    inputs: str | dict[str, str] | None = None,
) -> Skeleton:
    """Build a class on the meta device, which costs no memory and no time; on the CPU if it can't be built there."""

    def build() -> nn.Module:
        module = cls(**kwargs)
        if not isinstance(module, nn.Module):
            raise ArchitectureBroken(f"{name} makes a {type(module).__name__}, not a torch.nn.Module")
        return module

    try:
        module = on_meta(build)
    except LoadError:
        raise
    except Exception:  # noqa: BLE001  # a constructor may need real values; if it is broken it fails again below
        try:
            module = for_real(build, seed=0)
        except Exception as error:  # noqa: BLE001
            if why := left_out(cls, error):
                raise ArchitectureBroken(
                    f"{name} can't be built without running its file: {why}",
                    hint="Move the class, and what it needs, into a file of its own that trains nothing.",
                ) from None
            raise ArchitectureBroken(
                f"{name}({_shown(kwargs)}) can't be built: {type(error).__name__}: {error}",
                hint=_missing(error),
                detail=where(error),
            ) from None
    return Skeleton(name, source, build, module, inputs, getattr(cls, "__module__", None) or "", kwargs)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a module's state."""
    state = module.state_dict(keep_vars=True)
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


def tied(module: nn.Module) -> list[list[str]]:
    """Groups of names in a module's state that are one tensor."""
    groups: dict[int, list[str]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(value), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def on_meta(build: Build) -> nn.Module:
    """The module on the meta device: names, shapes and dtypes, no memory. What the constructor raises, this raises."""
    with torch.device("meta"), _parameters_left_empty():
        module = build()
    return module.requires_grad_(False)


def for_real(build: Build, seed: int) -> nn.Module:
    """The module on the CPU. Its parameters are allocated and hold nothing; buffers and plain tensors hold what the
    constructor computed, drawing from `seed` if it draws."""
    with torch.random.fork_rng(devices=[]), _parameters_left_empty():
        torch.manual_seed(seed)
        module = build()
    return module.requires_grad_(False)


def beside_parameters(build: Build, seed: int) -> nn.Module:
    """As `for_real`, with each parameter moved to the meta device as soon as a module has it: there is never memory for
    more than one of them. A constructor that looks at their values has them all."""
    try:
        with torch.random.fork_rng(devices=[]), _parameters_left_empty(moved=True):
            torch.manual_seed(seed)
            module = build()
        return module.requires_grad_(False)
    except Exception:  # noqa: BLE001  # whatever a constructor makes of a tensor without values
        return for_real(build, seed)


@contextmanager
def _parameters_left_empty(moved: bool = False) -> Iterator[None]:
    """Make `torch.nn.init` skip parameters: all of them come from the checkpoint, and drawing a billion random numbers
    to throw them away is what makes loading slow. Buffers and plain tensors are still initialised, and so is all that
    other threads build meanwhile."""
    here = _PATCHED.here
    before = here.skips, here.moves
    with _PATCHED:
        here.skips, here.moves = True, moved
        try:
            yield
        finally:
            here.skips, here.moves = before


class _Here(threading.local):
    """Whether this thread leaves parameters as they are, and moves them to the meta device."""

    skips = False
    moves = False


class _Patched:
    """`torch.nn.init`, and what registers a parameter, with functions of ours, as long as any thread is within: the
    first puts them in, and the last takes them out. What keeps one of them (transformers records them when it is
    imported) keeps the original for all but the threads that skip."""

    def __init__(self) -> None:
        self.here = _Here()
        self._lock, self._within = threading.Lock(), 0
        self._patches: list[Any] = []

    def __enter__(self) -> None:
        with self._lock:
            self._within += 1
            if self._within == 1:
                made = {name: _skipping(getattr(nn.init, name)) for name in _INITIALISERS}
                register = _moving(nn.Module.register_parameter)
                self._patches = [
                    mock.patch.multiple(nn.init, **made),
                    mock.patch.object(nn.Module, "register_parameter", register),
                ]
                for patch in self._patches:
                    patch.start()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                for patch in self._patches:
                    patch.stop()


_PATCHED = _Patched()


def _skipping(initialise: Any) -> Any:
    def skip(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        skips = _PATCHED.here.skips and isinstance(tensor, nn.Parameter)
        return tensor if skips else initialise(tensor, *args, **kwargs)

    return skip


def _moving(register: Any) -> Any:
    def move(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if _PATCHED.here.moves and type(parameter) is nn.Parameter and not parameter.is_meta:
            empty = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
            torch.utils.swap_tensors(parameter, empty)  # it stays the same object: what is tied stays tied
        register(module, name, parameter)

    return move


def _missing(error: Exception) -> str | None:
    """What to do about a package that is not installed; None for any other error."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"Install it: pip install {error.name.partition('.')[0]}"
    return None


def _shown(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in kwargs.items())


def where(error: BaseException) -> str:
    """The last place in the user's own code that an error came from."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "importlib" not in file and "/torch/" not in file and not file.endswith("meta_init.py"):
            last = f"{file}:{trace.tb_lineno} in {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return last
