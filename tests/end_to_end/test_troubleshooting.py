"""The table of docs/troubleshooting.md: each symptom is brought about as people meet it, and the remedy is tried.

The first line of a test's docstring stands in the table's first column; a test at the end keeps the two together. Those
that only a platform shows (408, 424, an instance without memory) are held to what the files for Azure say.
"""

import importlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from models.simple_model import SimpleModel
from score.errors import ClassNotImportable, DeviceOutOfMemory
from score.inference.pipeline import load_model
from score.settings import Settings
from tests.real_server import ROOT, Server, environment, refused, running

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
STATE = {"linear.weight": torch.ones(2, 10), "linear.bias": torch.zeros(2)}


def answers(path: Path, **settings: Any) -> None:
    served = load_model(Settings.load(path, **settings))
    assert served.predict({"x": torch.ones(1, 10)}).tolist() == [[10.0, 10.0]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("simple")
    torch.save(STATE, folder / "model.pt")
    with running(folder, tmp_path_factory.mktemp("log")) as server:
        yield server


def test_nested_model_path(tmp_path: Path) -> None:
    """No such file or directory: '.../azureml-models/.../model.pt'"""
    deep = tmp_path / "model" / "INPUT_model" / "outputs"
    deep.mkdir(parents=True)
    torch.save(STATE, deep / "final.pt")
    with pytest.raises(FileNotFoundError):
        torch.load(tmp_path / "model.pt")
    answers(tmp_path)


def test_cuda_checkpoint_on_a_cpu(tmp_path: Path) -> None:
    """Attempting to deserialize object on a CUDA device"""
    torch.save(STATE, tmp_path / "cpu.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "cpu.pt").read_bytes()
    (tmp_path / "cpu.pt").unlink()
    (tmp_path / "gpu.pt").write_bytes(content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
            torch.load(tmp_path / "gpu.pt")
    answers(tmp_path, device="cpu")


def saved_by_a_script(folder: Path, script: str) -> Path:
    """Run a training script as its author would; it saves `model.pt` in the folder."""
    (folder / "train.py").write_text(script)
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, env=environment())
    return folder / "model.pt"


WHOLE = """
import torch
from torch import nn
{before}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 2)
        {within}

    def forward(self, x):
        return self.linear(x)

net = Net()
nn.init.ones_(net.linear.weight), nn.init.zeros_(net.linear.bias)
torch.save(net, "model.pt")
"""


def test_a_class_from_main(tmp_path: Path) -> None:
    """Can't get attribute 'Net' on <module '__main__'>"""
    path = saved_by_a_script(tmp_path, WHOLE.format(before="", within=""))
    with pytest.raises(AttributeError, match="Can't get attribute 'Net'"):
        torch.load(path, weights_only=False)
    answers(path)  # its keys and shapes are those of a registered class: no code from the file is needed
    path = saved_by_a_script(tmp_path, WHOLE.format(before="", within="self.odd = nn.Linear(3, 7)"))
    written = path.stat().st_mtime_ns
    answers(path, trust_code=True)  # with the script beside it, trusted: for its class, not to train again
    assert path.stat().st_mtime_ns == written
    (tmp_path / "train.py").unlink()
    with pytest.raises(ClassNotImportable, match="Net"):
        load_model(Settings.load(path, trust_code=True))


def test_weights_only_refusal(tmp_path: Path) -> None:
    """Weights only load failed"""
    script = 'import argparse, torch\ntorch.save({"args": argparse.Namespace(lr=1), "model": %s}, "model.pt")\n'
    tensors = '{"linear.weight": torch.ones(2, 10), "linear.bias": torch.zeros(2)}'
    path = saved_by_a_script(tmp_path, script % tensors)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path)
    answers(path)


def test_a_module_prefix(tmp_path: Path) -> None:
    """Missing key(s) in state_dict ... Unexpected key(s)"""
    saved = {f"module._orig_mod.{name}": value for name, value in STATE.items()}
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        SimpleModel().load_state_dict(saved)
    answers(tmp_path)


def test_numpy_core(tmp_path: Path) -> None:
    """No module named 'numpy._core'"""
    mean = np.float64(0.5)
    torch.save({"model": STATE, "mean": mean, "std": np.ones(3)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    assert any(b"numpy._core" in content for content in records.values())
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for name, content in records.items():  # of a numpy that is not here, either way round
            archive.writestr(name, content.replace(b"numpy._core", b"numpy._cor3"))
    with pytest.raises(ModuleNotFoundError, match=r"numpy\._cor3"):
        torch.load(tmp_path / "model.pt", weights_only=False)
    answers(tmp_path)


def test_liveness_fails_because_the_start_failed(tmp_path: Path) -> None:
    """Liveness probe failed: HTTP probe failed with statuscode: 502"""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    status, log = refused(tmp_path / "model", tmp_path)
    assert status == 3
    screen = log[log.index("ERROR ") :]
    assert "git-lfs" in screen
    assert "What to do: " in screen
    assert len(screen.splitlines()) < 12


def test_a_request_that_takes_too_long() -> None:
    """408"""
    asked = yaml.safe_load((ROOT / "deployment.yml").read_text())["request_settings"]
    assert Settings().scoring_timeout_ms < asked["request_timeout_ms"]


def test_the_containers_own_error_behind_a_424(server: Server) -> None:
    """424"""
    answer = server.post({"data": [[1, 2, 3]]})
    assert answer.status == 400
    assert answer.json["error"]["hint"]
    assert "ms-azureml-model-error-statuscode" in PAGE


def test_too_many_requests_at_once(tmp_path: Path) -> None:
    """429"""
    (tmp_path / "model").mkdir()
    torch.save(STATE, tmp_path / "model" / "model.pt")
    (tmp_path / "model" / "slow.py").write_text(
        "import time\nfrom models.simple_model import SimpleModel\n\n\nclass Slow(SimpleModel):\n"
        "    def forward(self, x):\n        time.sleep(0.5)\n        return super().forward(x)\n"
    )
    settings = {"SCORE_ARCHITECTURE": "slow.py:Slow", "SCORE_INPUTS": "float32[N, 10]", "SCORE_MAX_QUEUE": "1",
                "SCORE_MAX_BATCH": "1"}  # fmt: skip
    with running(tmp_path / "model", tmp_path, **settings) as server, ThreadPoolExecutor(6) as pool:
        given = list(pool.map(lambda _: server.post({"data": [[1] * 10]}), range(6)))
    assert {answer.status for answer in given} == {200, 429}
    assert all("Retry-After" in answer.headers for answer in given if answer.status == 429)
    assert yaml.safe_load((ROOT / "deployment.yml").read_text())["request_settings"][
        "max_concurrent_requests_per_instance"
    ] > 1  # fmt: skip


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OutOfMemoryError"""
    torch.save(STATE, tmp_path / "model.pt")
    load = importlib.import_module("score.inference.load")

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(load, "_assign", full)
    with pytest.raises(DeviceOutOfMemory) as caught:
        load_model(Settings.load(tmp_path))
    assert caught.value.hint


def test_the_server_package_is_pinned_wherever_it_is_needed() -> None:
    """No module named 'azureml_inference_server_http'"""
    for name in ("conda.yml", "deploy/batch-conda.yml", "deploy/image-cpu.lock", "deploy/image-gpu.lock"):
        assert re.search(r"\bazureml-inference-server-http==1\.5\.1\b", (ROOT / name).read_text()), name


def test_a_helper_module_that_is_not_there(tmp_path: Path) -> None:
    """No module named 'utils'"""
    (tmp_path / "utils_of_mine.py").write_text("class Config:\n    depth = 3\n")
    script = WHOLE.format(before="from utils_of_mine import Config", within="self.config = Config()")
    path = saved_by_a_script(tmp_path, script.replace("class Net", "class Net_"[:-1]))
    with pytest.raises((ModuleNotFoundError, AttributeError)):
        torch.load(path, weights_only=False)
    answers(path)  # what the helper holds is not needed for the weights


def test_what_json_can_not_hold(tmp_path: Path) -> None:
    """Object of type Tensor is not JSON serializable"""
    with pytest.raises(TypeError, match="Object of type Tensor is not JSON serializable"):
        json.dumps({"predictions": torch.ones(2)})
    path = tmp_path / "rich.py"
    path.write_text(
        "import torch\nfrom models.simple_model import SimpleModel\n\n\nclass Rich(SimpleModel):\n"
        "    def forward(self, x):\n        y = super().forward(x)\n"
        "        return {'half': y.to(torch.bfloat16), 'index': y.argmax(1), 'nan': y / 0 * 0, 'flags': y > 0}\n"
    )
    torch.save(STATE, tmp_path / "model.pt")
    with running(
        tmp_path / "model.pt", tmp_path, SCORE_ARCHITECTURE=f"{path}:Rich", SCORE_INPUTS="float32[N, 10]"
    ) as server:
        answer = server.post({"data": [[1] * 10]})
    assert answer.json["predictions"] == {
        "half": [[10.0, 10.0]], "index": [0], "nan": [[None, None]], "flags": [[True, True]],
    }  # fmt: skip


def test_a_body_encoded_twice(server: Server) -> None:
    """the body is a JSON string, not an object"""
    answer = server.post(json.dumps({"data": [[1] * 10]}))
    assert answer.status == 400
    assert "the body is a JSON string, not an object" in answer.json["error"]["message"]
    assert "encoded twice" in answer.json["error"]["hint"]


def test_the_table_has_each_symptom_and_each_row_a_test() -> None:
    rows = [line.split(" | ")[0].lstrip("| ") for line in PAGE.splitlines() if line.startswith("| `")]
    tests = [
        function.__doc__.strip()
        for name, function in globals().items()
        if name.startswith("test_") and function.__doc__
    ]
    assert len(rows) >= 15
    missing = [symptom for symptom in tests if not any(symptom in row.replace("\\|", "|") for row in rows)]
    assert not missing
    assert len(tests) == len(rows)
