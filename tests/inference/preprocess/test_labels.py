"""From outputs to the likeliest labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from score.inference.preprocess import labels

LOGITS = arrays(np.float32, (3, 4), elements=st.floats(-50, 50, width=32))


@given(LOGITS)
def test_probabilities_are_a_softmax_once(outputs: np.ndarray) -> None:
    found = labels.probabilities(outputs)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-3)
    np.testing.assert_allclose(labels.probabilities(found), found)  # a distribution is left as it is
    np.testing.assert_allclose(labels.probabilities(np.log(found + 1e-30)), found, atol=1e-6)


@given(LOGITS)
def test_several_labels_at_a_time_are_each_by_itself(outputs: np.ndarray) -> None:
    found = labels.independent(outputs)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-outputs.astype(np.float64))), rtol=1e-9)


def test_the_likeliest_first_and_the_first_of_equals() -> None:
    found = labels.top(np.array([[0.0, 2.0, 2.0], [9.0, 0.0, 1.0]]), ["a", "b", "c"], 2)
    assert [[each["label"] for each in row] for row in found] == [["b", "c"], ["a", "c"]]
    assert found[0][0]["probability"] == found[0][1]["probability"] == pytest.approx(0.4683, abs=1e-4)
    assert len(labels.top(np.zeros((1, 3)), ["a", "b", "c"], 10)[0]) == 3
