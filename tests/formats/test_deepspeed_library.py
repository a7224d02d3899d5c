"""DeepSpeed's own folders, written by processes with gloo, against its `zero_to_fp32`.

`make test-deepspeed` installs it into build/deepspeed.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from score.settings import Settings
from score.weights.opened import open_weights

pytestmark = pytest.mark.deepspeed
LIBRARY = Path(__file__).parents[2] / "build" / "deepspeed"

WRITES = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.odd, self.frozen = nn.Linear(3, 5, bias=False), nn.Linear(5, 7)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.odd(self.head(self.bn(self.conv(x)).mean((2, 3)))))

import deepspeed

stage, world, groups, out = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
model = Net()
named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
parts = [[value for name, value in named if ("bias" in name) == bias] for bias in (False, True)]
given = [{"params": part} for part in parts] if groups == 2 else [value for _, value in named]
config = {
    "train_batch_size": 2 * world, "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
}
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(given, lr=1e-2), config=config)
for _ in range(2):
    loss = engine(torch.randn(2, 1, 8, 8)).sum()
    engine.backward(loss)
    engine.step()
engine.save_checkpoint(out)
"""
MERGES = """
import sys
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint as merged
torch.save({name: value.clone() for name, value in merged(sys.argv[1]).items()}, sys.argv[2])
"""


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(("world", "groups"), [(1, 1), (2, 2), (3, 1)])
def test_the_weights_are_those_of_zero_to_fp32(stage: int, world: int, groups: int, tmp_path: Path) -> None:
    if not LIBRARY.is_dir():
        pytest.skip("make test-deepspeed installs the library")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "PYTHONPATH": str(LIBRARY), "DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1"}
    folder = str(tmp_path / "model")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES, str(stage), str(world), str(groups), folder],
            env={**common, "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
        )
        for rank in range(world)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * world
    subprocess.run([sys.executable, "-c", MERGES, folder, tmp_path / "wanted.pth"], env=common, check=True)
    wanted = torch.load(tmp_path / "wanted.pth")
    weights = open_weights(Settings.load(tmp_path / "model")).weights
    assert weights is not None
    assert weights.tensors.keys() >= wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(weights.tensors[name].load(), value), name
    assert {"frozen.weight", "frozen.bias"} <= weights.tensors.keys()  # which zero_to_fp32 leaves out in stage 1
