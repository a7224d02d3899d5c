"""The Ray Serve application: `make ray-test`, which makes Ray's environment."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from models.simple_model import SimpleModel
from tests.real_server import ROOT, environment, free_port

pytestmark = pytest.mark.ray
PYTHON = ROOT / ".cache/ray/bin/python"


def test_two_replicas_answer_as_the_server_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SimpleModel()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    rows = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(rows)).numpy()
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("calls.py"), tmp_path / "model.pt", str(free_port())],
        capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment(RAY_USAGE_STATS_ENABLED="0"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"json"')))
    np.testing.assert_allclose(found["json"], wanted, atol=1e-5)
    np.testing.assert_allclose(found["npy"], wanted, atol=1e-5)
    assert found["wrong"] == [400, "wrong_shape"]
