"""The notebook in examples/ runs from its first cell to its last, and answers as well as it was trained."""

import re

import pytest

from tools.notebook import executed, shown

pytestmark = pytest.mark.notebook


def test_the_notebook_walks_from_training_to_curl() -> None:
    text = shown(executed())
    accuracies = re.findall(r"([\d.]+)% of 360 held-back images are right", text)
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]
    assert float(accuracies[0]) > 95
    digit = re.search(r"^a (\d)$", text, re.M)
    answer = re.search(r'{"predictions":\[\[(.*?)\]\]}', text)
    assert digit and answer
    numbers = [float(number) for number in answer[1].split(",")]
    assert len(numbers) == 10
    assert numbers.index(max(numbers)) == int(digit[1])
    assert text.count("ready to serve") == 3
    assert "ERROR architecture_undecided" in text
    assert '"code": "wrong_shape"' in text
    assert "\x1b" not in text
