"""Which requests of different lengths share a pass: against every way to divide them, and what a pass costs."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from score.inference.batching import lengths
from score.inference.batching.padded import CONSIDERED, Padded

Groups = list[list[int]]


def divisions(places: Sequence[int]) -> Iterator[Groups]:
    """All ways to divide requests into passes."""
    if not places:
        yield []
        return
    for rest in divisions(places[1:]):
        yield [[places[0]], *rest]
        for at, group in enumerate(rest):
            yield [*rest[:at], [places[0], *group], *rest[at + 1 :]]


def least(places: Sequence[int], long: Sequence[int], rows: Sequence[int], most: int, cost: float) -> float:
    """Of all divisions into passes that may be, the one that takes the least."""

    def taken(group: Sequence[int]) -> float:
        return cost + sum(rows[at] for at in group) * max(long[at] for at in group)

    return min(
        sum(taken(group) for group in groups)
        for groups in divisions(places)
        if all(len(group) == 1 or sum(rows[at] for at in group) <= most for group in groups)
    )


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 4)), min_size=1, max_size=7),
    st.integers(1, 12),
    st.sampled_from((16.0, 64.0, 500.0, 4096.0)),
)
def test_no_division_takes_less(waiting: list[tuple[int, int]], most: int, cost: float) -> None:
    long, rows = [each[0] for each in waiting], [each[1] for each in waiting]
    if max(rows) > 1 and min(rows) != max(rows):  # with requests of several rows it is a knapsack where `most` binds
        most = sum(rows)
    group = lengths.together(long, rows, most, cost)
    assert 0 in group and len(set(group)) == len(group)
    assert len(group) == 1 or sum(rows[at] for at in group) <= most
    places = list(range(len(waiting)))
    rest = [at for at in places if at not in group]
    alone = cost + sum(rows[at] for at in group) * max(long[at] for at in group)
    after = least(rest, long, rows, most, cost) if rest else 0.0
    assert alone + after == pytest.approx(least(places, long, rows, most, cost))


def test_a_short_text_does_not_wait_for_a_long_one_where_tokens_are_dear() -> None:
    assert lengths.together([8, 500, 9, 480], [1] * 4, 64, 64.0) == [0, 2]
    assert sorted(lengths.together([8, 500, 9, 480], [1] * 4, 64, 4096.0)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fixed", "each", "cost"), [(12e-3, 2e-4, 60.0), (5e-3, 0.0, lengths.MOST), (0.0, 1e-3, lengths.LEAST)]
)
def test_what_a_pass_costs_by_two_that_were_timed(fixed: float, each: float, cost: float) -> None:
    assert lengths.pass_cost(8, fixed + 8 * each, 100, fixed + 100 * each) == pytest.approx(cost)


def test_only_so_many_are_considered_and_the_oldest_is_among_them() -> None:
    layout = Padded({"input_ids": 0, "attention_mask": 0}, pads=True)
    texts = [{name: torch.ones(1, 5 + at % 40, dtype=torch.long) for name in layout.values} for at in range(300)]
    chosen = layout.choose(texts, [1] * len(texts), 64)
    assert 0 in chosen and max(chosen) < CONSIDERED
    assert len({layout.kind(inputs) for inputs in texts}) == 1
    layout.pads = False
    assert len({layout.kind(inputs) for inputs in texts}) == 40
