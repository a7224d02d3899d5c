"""Where the model goes, by what is asked for and what is there."""

import pytest
import torch

from score.errors import DeviceUnavailable
from score.inference import device

GB = 1_000_000_000


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, with 4 and 10 GB free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ([4 * GB, 10 * GB][index], 16 * GB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)


@pytest.mark.parametrize(
    ("wanted", "nbytes", "found"),
    [
        ("cpu", 1, "cpu"),
        ("auto", 1 * GB, "cuda:1"),
        ("auto", 9 * GB, "cpu"),  # with room to work in, it would not fit
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 1, "cuda:1"),
    ],
)
def test_with_gpus(gpus: None, wanted: str, nbytes: int, found: str) -> None:
    assert device.choose(wanted, nbytes) == torch.device(found)


@pytest.mark.parametrize(
    ("rank", "wanted", "nbytes", "found"),
    [
        ("0", "auto", 1 * GB, "cuda:0"),
        ("1", "auto", 1 * GB, "cuda:1"),
        ("2", "auto", 1 * GB, "cuda:0"),  # more workers than GPUs take turns
        ("0", "auto", 9 * GB, "cpu"),
        ("1", "cuda", 1, "cuda:1"),
        ("1", "cuda:0", 1, "cuda:0"),  # what was said by its number
    ],
)
def test_a_worker_of_several_has_the_gpu_of_its_rank(
    gpus: None, monkeypatch: pytest.MonkeyPatch, rank: str, wanted: str, nbytes: int, found: str
) -> None:
    monkeypatch.setenv("LOADSTONE_RANK", rank)
    assert device.choose(wanted, nbytes) == torch.device(found)


def test_one_that_is_not_there(gpus: None) -> None:
    with pytest.raises(DeviceUnavailable, match=r"cuda:7, but there is only cuda:0 GPU 0, cuda:1 GPU 1"):
        device.choose("cuda:7", 1)


def test_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose("auto", 1) == torch.device("cpu")
    with pytest.raises(DeviceUnavailable, match="SCORE_DEVICE=cuda"):
        device.choose("cuda", 1)
