"""Fifty models in one server: what they take, and that it does not grow."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.real_server import Server, running

COUNT, WIDTH = 50, 512  # each has a megabyte of weights
ROW = [[0.5] * WIDTH]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for at in range(COUNT):
        torch.manual_seed(at)
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4))
        torch.save(model.state_dict(), made / f"m{at}.pt")
    (made / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        f"        super().__init__(nn.Linear({WIDTH}, {WIDTH}), nn.ReLU(), nn.Linear({WIDTH}, 4))\n"
    )
    return made


def resident(server: Server) -> float:
    """Megabytes of the worker."""
    text = server.request("/metrics", method="GET").body.decode()
    return float(text.rpartition("loadstone_resident_memory_bytes ")[2].split()[0]) / 1e6


def answers(server: Server, folder: Path, at: int) -> None:
    weights = torch.load(folder / f"m{at}.pt", weights_only=True)
    hidden = torch.relu(weights["0.weight"] @ torch.full((WIDTH,), 0.5) + weights["0.bias"])
    wanted = weights["2.weight"] @ hidden + weights["2.bias"]
    found = server.request(f"/score/m{at}", b'{"data": %b}' % str(ROW).encode(), Content_Type="application/json")
    assert found.status == 200, found.body
    torch.testing.assert_close(torch.tensor(found.json["predictions"][0]), wanted, rtol=1e-4, atol=1e-4)


def settings(folder: Path) -> dict[str, str]:
    named = {"SCORE_ARCHITECTURE": f"{folder / 'net.py'}:Net", "SCORE_TRUST_CODE": "true"}
    return named | {"SCORE_INPUTS": f"float32[N, {WIDTH}]"}


@pytest.mark.slow
def test_fifty_cost_little_and_what_makes_room_gives_its_memory_back(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, SCORE_MAX_MEMORY_MB="8", **settings(folder)) as server:
        answers(server, folder, 0)
        first = resident(server)
        taken = []
        for _ in range(3):
            for at in range(COUNT):
                answers(server, folder, at)
            taken.append(resident(server))
        text = server.request("/metrics", method="GET").body.decode()
        loaded = sum(
            float(line.split()[-1]) for line in text.splitlines() if line.startswith("loadstone_model_loaded{")
        )
        assert loaded == 7  # of 1.06 MB each, in 8 MB
        print(f"one model {first:.0f} MB; after each round of fifty {taken}")
        assert taken[0] - first < 60
        assert taken[2] - taken[0] < 10  # the second and the third round took nothing


def test_fifty_at_once(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, SCORE_LOAD_MODELS="at_start", **settings(folder)) as server:
        before = resident(server)
        for _ in range(2):
            for at in range(COUNT):
                answers(server, folder, at)
        print(f"fifty in memory {before:.0f} MB, after two rounds {resident(server):.0f} MB")
        assert resident(server) - before < 100  # 53 MB of weights, which are mapped, and their threads
