"""Weights brought to a device in pieces, by several threads: to a made-up one, and to a GPU where there is one."""

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from score.inference import upload
from score.inference.upload import moved

META = torch.device("meta")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(300, 11), nn.Linear(11, 300, bias=False)
        self.head.weight = self.embedding.weight
        self.layer, self.small = nn.Linear(257, 33), nn.Linear(2, 2)
        self.turned = nn.Parameter(torch.randn(40, 60).t())
        self.register_buffer("counts", torch.arange(1000))
        self.register_buffer("narrow", torch.randn(500).bfloat16())
        self.register_buffer("complex", torch.randn(200, dtype=torch.complex64))
        self.register_buffer("flags", torch.rand(777) > 0.5)
        self.requires_grad_(False)


class Slow:
    """A device whose copies arrive some time after they were sent, in any order."""

    lanes: list["Slow"] = []  # noqa: RUF012  # all that were made

    def __init__(self, _device: torch.device) -> None:
        self._buffers = [torch.empty(upload.PIECE, dtype=torch.uint8) for _ in range(upload.BUFFERS)]
        self._busy: list[threading.Thread | None] = [None] * upload.BUFFERS
        self.sent = 0
        self.lanes.append(self)

    def buffer(self, at: int) -> torch.Tensor:
        if (busy := self._busy[at]) is not None:
            busy.join()
        return self._buffers[at]

    def send(self, at: int, size: int, into: torch.Tensor) -> None:
        def arrive() -> None:
            time.sleep(random.random() * 0.002)  # of a test
            into.copy_(self._buffers[at][:size])

        self.sent += 1
        self._busy[at] = threading.Thread(target=arrive)
        self._busy[at].start()  # type: ignore[union-attr]

    def finish(self) -> None:
        for at in range(upload.BUFFERS):
            self.buffer(at)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"PIECE": 1000, "SMALL": 100, "THREADS": 4}.items():
        monkeypatch.setattr(upload, name, value)
    monkeypatch.setattr(upload.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(Slow, "lanes", [])
    yield


def test_every_byte_arrives_in_its_place() -> None:
    net = Net()
    wanted = {name: value.clone() for name, value in net.state_dict().items()}
    before = {name: value.data_ptr() for name, value in net.state_dict().items()}
    found = moved(net, torch.device("cpu"), Slow)
    for name, value in found.state_dict().items():
        assert torch.equal(value, wanted[name]), name
        stayed = name in ("small.weight", "small.bias", "turned")
        assert (value.data_ptr() == before[name]) == stayed, name
    assert found.head.weight is found.embedding.weight
    assert isinstance(found.layer.weight, nn.Parameter) and not found.layer.weight.requires_grad
    assert len(Slow.lanes) == 4 and sum(lane.sent for lane in Slow.lanes) > 50


def test_without_pinned_memory_they_go_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    def none(_device: torch.device) -> Any:
        raise RuntimeError("CUDA error: cannot pin")

    net = Net()
    wanted = {name: value.clone() for name, value in net.state_dict().items()}
    with caplog.at_level("WARNING"):
        found = moved(net, torch.device("cpu"), none)
    assert all(torch.equal(value, wanted[name]) for name, value in found.state_dict().items())
    assert "no memory can be pinned" in caplog.text


def test_a_lack_of_memory_is_said() -> None:
    def full(_device: torch.device) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        moved(Net(), torch.device("cpu"), full)


def test_on_a_cpu_nothing_moves() -> None:
    net = Net()
    before = net.layer.weight.data_ptr()
    assert moved(net, torch.device("cpu")) is net
    assert net.layer.weight.data_ptr() == before


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    net = Net()
    wanted = {name: value.clone() for name, value in net.state_dict().items()}
    found = moved(net, torch.device("cuda", 0))
    for name, value in found.state_dict().items():
        assert value.is_cuda and torch.equal(value.cpu(), wanted[name]), name
    assert found.head.weight is found.embedding.weight
