"""Put the weights into the module without copying them, and the module onto its device.

The module is built on the meta device, so nothing is allocated or initialised; then each tensor is assigned as it lies
in the mapped file. What the checkpoint does not hold (tensors that a constructor computes) comes from the constructor
itself, and only if it computes the same twice: nothing is ever random.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from score.architectures import meta_init
from score.architectures.meta_init import Architecture, Complete, Skeleton
from score.errors import DeviceOutOfMemory, Uninitialised, one_line, printable
from score.formats.base import Checkpoint
from score.formats.search import size
from score.inference import upload
from score.inference.sharing import NOTHING, Base
from score.weights.align import Alignment
from score.weights.select import Candidate


@dataclass(frozen=True)
class LoadReport:
    """What was loaded, from where, and what was left out. `seconds` and `gb_per_s` cover building and placing."""

    format: str
    path: str
    weights_path: str
    prefix: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    device: str
    architecture: str
    source: str
    seconds: float
    gb_per_s: float
    ignored: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as the log shows it."""
        dtypes = ", ".join(f"{name} x {count}" for name, count in self.dtypes.items())
        weights = f"at {self.weights_path!r}" if self.weights_path else "at the root"
        stripped = f"prefix {self.prefix!r} stripped, " if self.prefix else ""
        shown = [
            f"loaded {self.path} ({self.format}, {size(self.bytes)} of weights)",
            f"architecture {self.architecture} ({self.source})",
            f"weights {weights}, {stripped}{self.tensors:,} tensors, "
            f"{self.parameters:,} parameters, {dtypes or 'no tensors'}",
            f"on {self.device} in {self.seconds * 1e3:,.1f} ms ({self.gb_per_s:,.1f} GB/s)",
        ]
        if "adapter" in self.metadata:
            beside = self.metadata.get("adapter_beside")
            how = f"beside {beside:,} layers" if beside else "merged"
            shown.append(f"with the adapter {self.metadata['adapter_name']} ({self.metadata['adapter']}) {how}")
        if isinstance(said := self.metadata.get("quantization_config"), dict):
            shown.append(f"weights that {said.get('quant_method')} quantised, as the numbers that they stand for")
        if self.ignored:
            shown.append(
                f"ignored {len(self.ignored)} tensors that the architecture has no place for: {_some(self.ignored)}"
            )
        if self.absent:
            shown.append(f"absent and not needed (tied weights, counters): {_some(self.absent)}")
        return [one_line(line) for line in shown]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def load(
    checkpoint: Checkpoint,
    weights: Candidate | None,
    architecture: Architecture,
    alignment: Alignment | None,
    device: torch.device,
    base: Base = NOTHING,
) -> tuple[nn.Module, LoadReport]:
    """The module with its weights, on `device`, in evaluation mode; those of a `base` that other models have too are
    theirs. Raises `Uninitialised`, `DeviceOutOfMemory`."""
    start = time.perf_counter()
    try:
        if isinstance(architecture, Complete):
            module = architecture.build(device)
        else:
            assert weights is not None and alignment is not None, "a class without its weights is no model"
            module = fill(architecture, weights, alignment)
            shared = base.shared(module, weights, alignment, device)
            shared.take()
            module = upload.moved(module, device).eval()
            shared.give()
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceOutOfMemory(f"the weights do not fit on {device}: {str(error).splitlines()[0]}") from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise DeviceOutOfMemory(f"the weights do not fit into memory: {str(error)[:200]}") from None
    seconds = time.perf_counter() - start
    nbytes = weights.nbytes if weights else 0
    return module, LoadReport(
        format=checkpoint.format,
        path=printable(str(checkpoint.shown)),
        weights_path=weights.path if weights else "",
        prefix=alignment.prefix if alignment else "",
        tensors=len(weights.tensors) if weights else 0,
        parameters=weights.parameters if weights else 0,
        bytes=nbytes,
        dtypes=weights.dtypes if weights else {},
        device=str(device),
        architecture=architecture.name,
        source=architecture.source,
        seconds=seconds,
        gb_per_s=nbytes / 1e9 / max(seconds, 1e-9),
        ignored=alignment.unexpected if alignment else (),
        absent=alignment.absent if alignment else (),
        metadata=dict(checkpoint.metadata),
    )


def fill(architecture: Skeleton, weights: Candidate, alignment: Alignment) -> nn.Module:
    """The architecture's module with every value assigned from the weights."""
    values = {key: weights.tensors[source].load() for key, source in alignment.mapping.items()}
    for key in alignment.absent:
        if key.rpartition(".")[2] == "num_batches_tracked":
            values[key] = torch.tensor(0)
    module = architecture.module
    versions = _versions(weights.metadata, alignment.prefix)
    _assign(module, values, versions)
    if not _left_on_meta(module):
        return module
    # The constructor computes tensors that no checkpoint holds, so it has to run with real memory. Twice, from
    # different seeds: what differs was random, and a served model must not depend on chance.
    module, again = (meta_init.beside_parameters(architecture.build, seed) for seed in (0, 1))
    left = {name: value for name, value in _tensors(module) if name not in values}
    other = dict(_tensors(again))
    random = [
        name for name, value in left.items() if name not in alignment.absent and not _same(value, other.get(name))
    ]
    if random:
        raise Uninitialised(
            f"{architecture.name} draws {len(random)} tensors at random that the checkpoint does not hold: "
            f"{', '.join(random[:8])}"
        )
    _assign(module, values, versions)
    return module


def _versions(metadata: Any, prefix: str) -> dict[str, dict[str, int]]:
    """The version of each submodule's state, as `nn.Module.state_dict` writes it, for the modules that upgrade older
    states when they load one. It comes from the file: whatever is not a number by name is left out."""
    found = {}
    for name, entry in metadata.items() if isinstance(metadata, dict) else ():
        version = entry.get("version") if isinstance(entry, dict) else None
        if isinstance(name, str) and isinstance(version, int) and f"{name}.".startswith(prefix):
            found[f"{name}."[len(prefix) :].removesuffix(".")] = {"version": version}
    return found


def _assign(module: nn.Module, values: dict[str, torch.Tensor], versions: dict[str, dict[str, int]]) -> None:
    groups = _tied(module)
    state = OrderedDict(values)
    if versions:
        state._metadata = versions  # type: ignore[attr-defined]  # where torch itself keeps it
    module.load_state_dict(state, strict=False, assign=True)
    for names in groups:
        source = next((name for name in names if name in values), None)
        if source is not None:
            for name in names:
                _set(module, name, _get(module, source))
    module.requires_grad_(False)


def _tied(module: nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _get(module: nn.Module, name: str) -> Any:
    return module.get_parameter(name)


def _set(module: nn.Module, name: str, value: Any) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, value)


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a module by dotted name: parameters, all buffers, and plain attributes."""
    for prefix, part in module.named_modules(remove_duplicate=False):
        held = {**part._parameters, **part._buffers, **vars(part)}
        for name, value in held.items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}.{name}" if prefix else name, value
            elif isinstance(value, (list, tuple)) and not name.startswith("_"):
                for index, item in enumerate(value):
                    if isinstance(item, torch.Tensor):
                        yield f"{prefix}.{name}.{index}" if prefix else f"{name}.{index}", item


def _left_on_meta(module: nn.Module) -> bool:
    return any(value.is_meta for _, value in _tensors(module))


def _same(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    if other is None or one.shape != other.shape or one.is_meta or other.is_meta:
        return False
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
