"""Choosing the weights, and saying what a file without weights is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.errors import NoWeights, SeveralWeights, WeightsNotFound
from score.formats.registry import open_checkpoint
from score.weights import select
from tests.makers import net

LINEAR = nn.Linear(3, 2).state_dict()


def choose(value: Any, folder: Path, wanted: str | None = None) -> select.Candidate:
    torch.save(value, folder / "model.pt")
    return select.choose(open_checkpoint(folder / "model.pt"), wanted)


def adam() -> dict[str, Any]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (adam(), "optimizer's state only"),
        ({"optimizer": adam(), "epoch": 3}, "training state only"),
        ({"lr_scheduler": {"last_epoch": 3}, "rng_state": torch.get_rng_state()}, "training state only"),
        (torch.ones(3, 4), "a single tensor of shape [3, 4]"),
        ({}, "nothing"),
        ({"accuracy": 0.9, "name": "x"}, "nothing in it is a mapping of names to tensors. It holds: accuracy, name"),
        (nn.ReLU(), "a module of class torch.nn.modules.activation.ReLU that has no parameters"),
        (nn.Linear, "the class torch.nn.modules.linear.Linear itself, an architecture without weights"),
        (3, "holds int"),
    ],
)
def test_a_file_without_weights_is_told_for_what_it_is(tmp_path: Path, value: Any, says: str) -> None:
    with pytest.raises(NoWeights) as caught:
        choose(value, tmp_path)
    assert says in caught.value.message


def test_a_tie_lists_the_candidates_with_their_sizes(tmp_path: Path) -> None:
    with pytest.raises(SeveralWeights) as caught:
        choose({"generator": LINEAR, "critic": nn.Linear(5, 4).state_dict()}, tmp_path)
    lines = caught.value.detail.splitlines()
    assert [lines[0].split()[at] for at in (0, 1, 3)] == ["generator", "2", "8"]
    assert [lines[1].split()[at] for at in (0, 1, 3)] == ["critic", "2", "24"]


def test_the_setting_decides(tmp_path: Path) -> None:
    value = {"generator": LINEAR, "critic": nn.Linear(5, 4).state_dict(), "model_ema": LINEAR.copy()}
    assert choose(value, tmp_path, "critic").path == "critic"
    assert choose(value, tmp_path, "ema").path == "model_ema"
    with pytest.raises(WeightsNotFound) as caught:
        choose(value, tmp_path, "net")
    assert "generator" in caught.value.detail
    assert choose(LINEAR, tmp_path, ".").path == ""


def test_an_ema_copy_that_is_alone_is_taken(tmp_path: Path) -> None:
    assert choose({"ema": LINEAR, "step": 3}, tmp_path).kind == "ema"


def test_a_pickled_module_yields_its_state_dict(tmp_path: Path) -> None:
    model = net()
    found = choose(model, tmp_path)
    assert found.class_path == "tests.makers.Net"
    state = model.state_dict()  # without `scale`, which is not persistent
    assert list(found.tensors) == list(state)
    for name, tensor in state.items():
        assert torch.equal(found.tensors[name].load(), tensor)


def test_tied_weights_of_a_pickled_module_are_both_there(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    found = choose(model, tmp_path)
    assert list(found.tensors) == list(model.state_dict())
    assert found.tensors["0.weight"].storage is found.tensors["1.weight"].storage


def test_a_mapping_that_holds_itself(tmp_path: Path) -> None:
    value: dict[str, Any] = {"state_dict": LINEAR}
    value["self"] = value
    assert choose(value, tmp_path).path == "state_dict"


def test_the_same_mapping_twice_is_one_candidate(tmp_path: Path) -> None:
    assert choose({"model": LINEAR, "best": LINEAR}, tmp_path).path == "model"


def test_a_name_that_is_never_chosen_can_be_asked_for(tmp_path: Path) -> None:
    value = {"model": LINEAR, "opt": nn.Linear(5, 4).state_dict()}
    assert choose(value, tmp_path).path == "model"
    assert choose(value, tmp_path, "opt").path == "opt"


def test_a_module_of_fx_has_its_weights(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    traced = torch.fx.symbolic_trace(model)
    torch.save(traced, tmp_path / "model.pt")
    weights = select.weights_of(open_checkpoint(tmp_path / "model.pt"))
    assert weights is not None
    assert weights.class_path == "torch.fx.graph_module.GraphModule"
    assert {name: ref.shape for name, ref in weights.tensors.items()} == {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    }
    for name, ref in weights.tensors.items():
        assert torch.equal(ref.load(), model.state_dict()[name])


class Wrapped:
    def __init__(self, values: torch.Tensor, scale: torch.Tensor) -> None:
        self.values, self.scale = values, scale

    def __reduce__(self) -> tuple[type, tuple[torch.Tensor, torch.Tensor]]:
        return Wrapped, (self.values, self.scale)


class Scaled(torch.Tensor):
    """A tensor that computes with another and a number, as quantisation libraries write them."""

    @staticmethod
    def __new__(cls, values: torch.Tensor, scale: float) -> "Scaled":
        made = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)
        made.values_, made.scale = values, scale
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


def test_a_tensor_that_wraps_another_is_not_left_out_in_silence(tmp_path: Path) -> None:
    torch.save({"a.weight": Scaled(torch.ones(2, 2), 3.0), "a.bias": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(NoWeights, match="Scaled"):
        select.weights_of(open_checkpoint(tmp_path / "model.pt"))


def test_tensors_of_a_class_that_wraps_others_are_not_left_out_in_silence(tmp_path: Path) -> None:
    state = {"a.weight": Wrapped(torch.ones(2, 2), torch.ones(1)), "a.bias": torch.ones(2)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(NoWeights, match=r"Wrapped"):
        select.weights_of(open_checkpoint(tmp_path / "model.pt"))
