"""A program of torch.export as a module: the sizes it takes are checked, and its answer is nested as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from score.formats._program import symbols
from score.formats._program.export_plan import Plan


class Exported(nn.Module):
    """A built program behind the interface of a module. Takes the inputs in order, each a tensor or a number.

    `takes_exported` says what they are, for the signature.
    """

    def __init__(self, body: fx.GraphModule, plan: Plan) -> None:
        super().__init__()
        self.body = body
        self.takes_exported = tuple(item for item in plan.inputs if item is not None)
        self._structure, self._ranges = plan.structure, plan.ranges
        self._sizes = tuple(
            tuple(size if isinstance(size, int) else (symbols.symbol(size), symbols.parse(size)) for size in item.sizes)
            for item in self.takes_exported
        )

    def forward(self, *inputs: Any) -> Any:
        """Raises `ValueError` for sizes that the program was not exported for."""
        self._check(inputs)
        return _restored(self._structure, iter(self.body(*inputs)))

    def _check(self, inputs: Sequence[Any]) -> None:
        known: dict[str, int] = {}
        derived: list[tuple[str, int, Any, int]] = []
        for item, sizes, value in zip(self.takes_exported, self._sizes, inputs, strict=True):
            if not isinstance(value, torch.Tensor):
                continue
            if value.dim() != len(sizes):
                raise ValueError(f"{item.name} has {value.dim()} dimensions, and the program takes {len(sizes)}")
            for axis, (size, got) in enumerate(zip(sizes, value.shape, strict=True)):
                if isinstance(size, int):
                    if size != got:
                        raise ValueError(f"{item.name}: dimension {axis} is {got}, and the program takes {size}")
                elif size[0] is not None:
                    self._bind(item.name, axis, size[0], got, known)
                else:
                    derived.append((item.name, axis, size[1], got))
        for name, axis, expression, got in derived:
            try:
                wanted = expression(known)
            except KeyError:
                continue  # of a symbol that no input has by itself
            if wanted != got:
                raise ValueError(f"{name}: dimension {axis} is {got}, and beside the other sizes it has to be {wanted}")

    def _bind(self, name: str, axis: int, symbol: str, got: int, known: dict[str, int]) -> None:
        low, high = self._ranges.get(symbol, (0, symbols.LIMIT))
        if not low <= got <= high:
            raise ValueError(f"{name}: dimension {axis} is {got}, and the program takes {low} to {high}")
        if known.setdefault(symbol, got) != got:
            raise ValueError(f"{name}: dimension {axis} is {got}, and another that has to be equal is {known[symbol]}")


def _size(size: int | str) -> Any:
    """A number, or the symbol that a size is (None where it is more than one) and its expression."""
    return size if isinstance(size, int) else (symbols.symbol(size), symbols.parse(size))


def _restored(structure: Any, leaves: Iterator[Any]) -> Any:
    if structure is None:
        return next(leaves)
    if isinstance(structure, dict):
        return {key: _restored(part, leaves) for key, part in structure.items()}
    return tuple(_restored(part, leaves) for part in structure)


class Sizes(nn.Module):
    """An operator on sizes, bounded."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.function = symbols.OPERATORS[target]

    def forward(self, *values: Any) -> Any:
        return self.function(*values)


class Autocast(nn.Module):
    """A graph under autocast, as it was exported."""

    def __init__(self, body: nn.Module, device: torch.device, dtype: Any, enabled: Any) -> None:
        super().__init__()
        self.body, self.kind, self.dtype, self.enabled = body, device.type, dtype, bool(enabled)

    def forward(self, *inputs: Any) -> Any:
        with torch.autocast(self.kind, dtype=self.dtype, enabled=self.enabled):
            return self.body(*inputs)


class Branches(nn.Module):
    """`torch.cond`: one of two graphs, by a value."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, condition: Any, *inputs: Any) -> Any:
        return self.one(*inputs) if bool(condition) else self.other(*inputs)
