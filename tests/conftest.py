"""Fixtures that several tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from examples.train_digits import digits, train, writers
from models.digits_cnn import DigitsCNN

# Machines are shared: no example fails for being slow. In CI the same examples run each time; elsewhere new ones.
settings.register_profile(
    "shared", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("SCORE_", "SCORING_")) or name == "AZUREML_MODEL_DIR":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def trained() -> tuple[DigitsCNN, torch.optim.Optimizer]:
    """The example's model, trained once."""
    model, optimizer, accuracy = train()
    assert accuracy >= 0.97
    return model, optimizer


@pytest.fixture(scope="session")
def digits_folder(trained: tuple[DigitsCNN, torch.optim.Optimizer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's model, saved in every way that the example knows."""
    folder = tmp_path_factory.mktemp("digits")
    for name, write in writers(*trained).items():
        (folder / name).parent.mkdir(parents=True)
        write(folder / name)
    return folder


@pytest.fixture(scope="session")
def held_back() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [360, 1, 8, 8] that the example was not trained on, and their labels."""
    _, _, images, labels = digits()
    return torch.from_numpy(images), torch.from_numpy(labels)


@pytest.fixture
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield
