"""Real files from two public packages: lpips (torch-legacy) and silero-vad (torchscript, safetensors)."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from score.formats.registry import detect, open_checkpoint
from score.weights import select
from tests.real_server import running

CACHE = Path(__file__).parents[2] / ".cache" / "public-packages"
PACKAGES = ("lpips==0.1.4", "silero-vad==6.2.3")


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder with both packages, without what they need; filled once."""
    if not (CACHE / "silero_vad").is_dir() or not (CACHE / "lpips").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(CACHE), *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the packages can't be installed here: {done.stderr[-300:]}")
    return CACHE


def test_lpips_is_torch_legacy(packages: Path) -> None:
    paths = sorted((packages / "lpips" / "weights").rglob("*.pth"))
    assert len(paths) >= 3
    for path in paths:
        assert detect(path) == "torch-legacy"
        weights = select.choose(open_checkpoint(path))
        wanted = torch.load(path, map_location="cpu", weights_only=True)
        assert set(weights.tensors) == set(wanted)
        for name, tensor in wanted.items():
            assert torch.equal(weights.tensors[name].load(), tensor)


def test_silero_vad_safetensors(packages: Path) -> None:
    (path,) = sorted((packages / "silero_vad" / "data").glob("*.safetensors"))
    wanted = load_file(path)
    weights = select.choose(open_checkpoint(path))
    assert set(weights.tensors) == set(wanted)
    assert all(torch.equal(weights.tensors[name].load(), tensor) for name, tensor in wanted.items())


def test_silero_vad_torchscript_weights(packages: Path) -> None:
    for path in sorted((packages / "silero_vad" / "data").glob("*.jit")):
        assert detect(path) == "torchscript"
        weights = select.weights_of(open_checkpoint(path))
        assert weights is not None
        wanted = torch.jit.load(str(path), map_location="cpu").state_dict()
        assert set(weights.tensors) == set(wanted)
        assert all(torch.equal(weights.tensors[name].load(), tensor) for name, tensor in wanted.items())


def test_silero_vad_is_served_as_it_is(packages: Path, tmp_path: Path) -> None:
    path = next(iter(sorted((packages / "silero_vad" / "data").glob("*.jit"))))
    chunk = torch.sin(torch.arange(512) / 5)[None]
    model = torch.jit.load(str(path), map_location="cpu").eval()
    with torch.inference_mode():
        wanted = model(chunk, 16000)
    with running(path, tmp_path) as server:
        card = server.request(method="GET").json
        assert card["signature"]["inputs"]["sr"] == "py_int"
        answer = server.post({"inputs": {"x": chunk.tolist(), "sr": 16000}})
        assert answer.status == 200, answer.body
        torch.testing.assert_close(torch.tensor(answer.json["predictions"]), wanted, rtol=1e-4, atol=1e-4)
        refused = server.post({"inputs": {"x": chunk.tolist(), "sr": 12345}})
        assert (refused.status, refused.json["error"]["code"]) == (422, "model_rejected")
