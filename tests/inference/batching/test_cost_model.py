"""What passes cost, as it is learnt."""

import pytest

from score.inference.batching.cost_model import CostModel


def test_between_and_beyond_what_is_known() -> None:
    costs = CostModel()
    assert costs.of(4) == 0.0
    costs.learn(1, 0.010)
    costs.learn(4, 0.016)
    assert costs.of(1) == pytest.approx(0.010)
    assert costs.of(2.5) == pytest.approx(0.013)  # on the line between
    assert costs.of(8) == pytest.approx(0.032)  # in proportion
    assert costs.of(0.5) == pytest.approx(0.005)


def test_it_follows_slowly() -> None:
    costs = CostModel()
    costs.learn(1, 0.010)
    for _ in range(100):
        costs.learn(1, 0.020)
    assert costs.of(1) == pytest.approx(0.020, rel=1e-3)
    costs.learn(1, 1.0)  # one outlier
    assert costs.of(1) == pytest.approx(0.118, rel=1e-2)


def test_what_one_pass_saves() -> None:
    costs = CostModel()
    for rows in (1, 2, 4, 8):
        costs.learn(rows, 0.010 + 0.001 * rows)
    assert costs.gain(4, 8) == pytest.approx(0.010)  # one fixed part less
    flat = CostModel()
    for rows in (1, 2, 4, 8):
        flat.learn(rows, 0.001 * rows)
    assert flat.gain(4, 8) == pytest.approx(0.0)
