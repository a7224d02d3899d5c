"""Putting requests together and taking answers apart: whatever is joined comes out as it went in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from score.inference.batching import rows


@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    width=st.integers(1, 4),
    empty=st.sampled_from([None, lambda shape, dtype: torch.full(shape, -1, dtype=dtype)]),
)
def test_joined_and_sliced_again(counts: list[int], width: int, empty: rows.Empty | None) -> None:
    batch = [{"x": torch.rand(count, width), "n": 3} for count in counts]
    together = rows.Rows(empty=empty).join(batch)
    assert together["n"] == 3
    start = 0
    for each, count in zip(batch, counts, strict=True):
        assert torch.equal(rows.part_of(together, start, start + count)["x"], each["x"])
        start += count
    assert rows.rows_and_kind(together)[0] == sum(counts)


@pytest.mark.parametrize(
    ("inputs", "count", "alone"),
    [
        ({"x": torch.ones(3, 2)}, 3, False),
        ({"x": torch.ones(3, 2), "y": torch.ones(2)}, 1, True),
        ({"x": torch.ones(())}, 1, True),
        ({"x": torch.ones(0, 2)}, 1, True),
        ({"n": 1}, 1, True),
    ],
)
def test_what_has_rows(inputs: rows.Inputs, count: int, alone: bool) -> None:
    found, kind = rows.rows_and_kind(inputs)
    assert (found, kind is None) == (count, alone)


def test_what_runs_together_is_alike() -> None:
    def kind(**inputs: object) -> object:
        return rows.rows_and_kind(dict(inputs))[1]

    same = kind(x=torch.ones(1, 2), scale=1.0)
    assert same == kind(x=torch.ones(5, 2), scale=1.0)
    assert same != kind(x=torch.ones(1, 3), scale=1.0)
    assert same != kind(x=torch.ones(1, 2, dtype=torch.float64), scale=1.0)
    assert same != kind(x=torch.ones(1, 2), scale=2.0)


def test_whether_rows_are_the_same_together_and_alone() -> None:
    together = {"a": np.arange(6.0).reshape(3, 2), "t": np.array(["x", "y", "z"])}
    alone = [rows.sliced(together, 0, 1), rows.sliced(together, 1, 3)]
    assert rows.same_rows(together, alone, [1, 2])
    assert not rows.same_rows(together, alone[::-1], [2, 1])
    assert not rows.same_rows({"a": together["a"][:2], "t": together["t"]}, alone, [1, 2])
    near = np.array([[1.0], [np.nan], [np.inf]])
    assert rows.same_rows(near, [near * (1 + 1e-5)], [3])
    assert not rows.same_rows(near, [near * 1.1], [3])


def test_parts_of_a_large_request() -> None:
    parts = [np.ones((2, 3)), np.zeros((1, 3))]
    assert rows.concatenated(parts).shape == (3, 3)  # type: ignore[union-attr]
    named = rows.concatenated([{"a": part} for part in parts])
    assert isinstance(named, dict)
    assert np.array_equal(named["a"], np.concatenate(parts))
    assert rows.shapes_of(named) == "[3, 3]"


def test_requests_that_ask_the_same() -> None:
    one = {"x": torch.ones(1, 2)}
    assert rows.all_equal([one, {"x": torch.ones(1, 2)}])
    assert not rows.all_equal([one, {"x": torch.zeros(1, 2)}])
