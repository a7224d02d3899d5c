"""What `score inspect` shows people: the tree, the bytes, what is odd, the page; and what differs between two files."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from models.simple_model import SimpleModel
from score.formats.registry import open_checkpoint
from score.weights import anatomy, compare, select
from score.weights.select import Candidate
from tests.architectures.test_recognition import candidate
from tests.cli.test_commands import score


def opened(path: Path) -> Candidate:
    weights = select.weights_of(open_checkpoint(path))
    assert weights is not None
    return weights


def names(shapes: dict[str, tuple[int, ...]], deepest: int = 3) -> list[tuple[int, str, int]]:
    tree = anatomy.tree_of(candidate(shapes).tensors)
    return [(line.depth, line.name, line.parameters) for line in anatomy.lines(tree, deepest)]


def test_repeated_layers_are_one_line() -> None:
    layers = {f"model.layers.{at}.{part}.weight": (4, 4) for at in range(32) for part in ("q", "k")}
    assert names({"model.embed.weight": (10, 4), **layers}) == [
        (0, "model", 40 + 32 * 32),
        (1, "embed", 40),
        (1, "layers.{0..31}", 32 * 32),
        (2, "q", 16 * 32),
        (2, "k", 16 * 32),
    ]


def test_layers_of_other_shapes_stay_apart_and_nothing_is_lost() -> None:
    shapes = {"0.weight": (2, 3), "1.weight": (2, 3), "2.weight": (3, 3), "4.weight": (3, 3), "own": (5,)}
    assert names(shapes) == [(0, "{0..1}", 12), (0, "2", 9), (0, "4", 9)]
    tree = anatomy.tree_of(candidate(shapes).tensors)
    assert tree.parameters == 12 + 9 + 9 + 5
    assert dict(anatomy.shares(tree))["(its own)"] == 4
    assert sum(nbytes for _, nbytes in anatomy.shares(tree)) == tree.nbytes


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    state = {
        "fine.weight": torch.rand(4, 4),
        "half.weight": torch.rand(4, 4).half(),
        "dead.weight": torch.zeros(3, 3),
        "dead.bias": torch.zeros(3),  # a bias begins as zeros, and may well stay so
        "broken.weight": torch.tensor([[1.0, float("nan")]]),
        "far.weight": torch.tensor([[float("-inf"), 1.0]], dtype=torch.bfloat16),
    }
    state["copy.weight"] = state["fine.weight"]
    torch.save(
        {"model": state, "optimizer": {"state": {0: {"m": torch.rand(300, 300)}}, "param_groups": []}},
        tmp_path / "m.pt",
    )
    odd = anatomy.oddities(opened(tmp_path / "m.pt"), (tmp_path / "m.pt").stat().st_size, [])
    text = "\n".join(odd)
    assert "broken.weight: NaN" in text
    assert "far.weight: infinite values" in text
    assert "dead.weight: only zeros" in text
    assert "dead.bias" not in text
    assert "mixed precision: 5 x float32, 1 x float16, 1 x bfloat16" in text
    assert "fine.weight = copy.weight" in text
    assert "optimizer state" in text
    torch.save(SimpleModel().state_dict(), tmp_path / "plain.pt")
    assert anatomy.oddities(opened(tmp_path / "plain.pt"), 10, []) == []


def test_the_screen_and_the_page_say_the_same(tmp_path: Path) -> None:
    state = {"<script>alert(1)</script>.weight": torch.rand(30, 20), "b.weight": torch.zeros(3, 7)}
    torch.save(state, tmp_path / "m.pt")
    done = score("inspect", tmp_path / "m.pt", "--html", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text()
    for text in ("where the bytes are", "only zeros", "not recognised", "[bold]"):
        assert (text in done.output) == (text != "[bold]")
    for text in ("Where the bytes are", "only zeros", "not recognised", "600", "97%"):
        assert text in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"""(src|href)\s*=|https?://""", page)  # it needs nothing else


def test_two_files_that_hold_the_same_in_other_wrappings(tmp_path: Path) -> None:
    state = SimpleModel().state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "b.ckpt")
    done = score("inspect", tmp_path / "a.pt", tmp_path / "b.ckpt")
    assert done.exit_code == 0
    assert "the same: 2 tensors" in done.output


def test_each_difference_is_found(tmp_path: Path) -> None:
    one = nn.Linear(4, 3).state_dict() | {"scale": torch.tensor([1.0, float("nan")]), "old": torch.ones(1)}
    other = {name: value.clone() for name, value in one.items() if name != "old"} | {"new": torch.ones(1)}
    other["weight"][1, 2] += 0.5
    other["bias"] = torch.ones(5)
    torch.save(one, tmp_path / "a.pt")
    torch.save(other, tmp_path / "b.pt")
    found = compare.compare(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (found.only_first, found.only_second, found.same) == (("old",), ("new",), 1)  # NaN is equal to NaN
    assert found.shapes == (("bias", (3,), (5,)),)
    (changed,) = found.values
    assert (changed.name, changed.share) == ("weight", pytest.approx(1 / 12))
    assert changed.largest == pytest.approx(0.5, abs=1e-6)
    done = score("inspect", tmp_path / "a.pt", tmp_path / "b.pt", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["equal"] is False
    page = tmp_path / "page.html"
    shown = score("inspect", tmp_path / "a.pt", tmp_path / "b.pt", "--html", page)
    assert shown.exit_code == 1
    for text in ("only in the first (1)", "only in the second (1)", "another shape (1)", "up to 0.5"):
        assert text in shown.output
        assert text.lower() in page.read_text().lower()
    assert 'aria-label="8%"' in page.read_text()


def test_another_dtype_is_a_difference_and_values_are_still_compared(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "a.pt")
    torch.save({"w": torch.ones(2, 2).half()}, tmp_path / "b.pt")
    found = compare.compare(tmp_path / "a.pt", tmp_path / "b.pt")
    assert found.dtypes == (("w", "float32", "float16"),)
    assert not found.values
    assert not found.equal


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("kind", ["finite", "NaN", "infinite values", "only zeros", "both"])
def test_strange_values_are_the_same_with_torch_and_without(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    value = {"finite": 1.0, "NaN": math.nan, "infinite values": -math.inf, "only zeros": 0.0, "both": math.nan}[kind]
    tensor = (torch.zeros(3, 4) if kind == "only zeros" else torch.rand(3, 4)).to(dtype)
    tensor[1, 2] = value
    if kind == "both":
        tensor[0, 0] = math.inf
    torch.save({"layer.weight": tensor, "turned": tensor.t()}, tmp_path / "m.pt")
    refs = opened(tmp_path / "m.pt").tensors
    assert refs["layer.weight"].content is not None
    assert refs["turned"].content is None  # which does not lie row by row
    found = [anatomy._kinds(ref) for ref in refs.values()]
    assert found[0] == found[1] == anatomy._kinds_in_torch(tensor)
    wanted = {"finite": [], "both": ["NaN", "infinite values"]}.get(kind, [kind])
    assert found[0] == ([] if kind == "only zeros" and dtype.is_complex else wanted)
