"""What a GPU is given: how quick weights get onto it, and what each way to run a model takes there.

    python bench/gpu.py [--gigabytes 4] [--rounds 3] [--models resnet50,vit,mlp] [--tolerance 1e-2]

Loading: a checkpoint of that size (`torch.save`, and the same as safetensors), in the page cache, onto the GPU: by this
project, by `torch.load(mmap=True)` and `.to`, and by safetensors' own `load_file(device=...)`; a process each time,
seconds and GB/s from the file's name to the last byte, and beside it what a copy from pinned memory reaches, which is
the bus. Serving: rows/s of one process without HTTP, 64 threads with a picture each, with requests staged in pinned
memory and sent while the GPU computes, and without. Ways to run: `score tune`'s own table for each model, agreement
included. Prints Markdown, with the GPU's name.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import torch
from torch import nn

TENSOR = 64 << 20  # bytes of a tensor: as a layer of a large language model
HERE = Path(sys.executable).parent
WAYS = {
    "loadstone": "import score; score.load(path, device='cuda', architecture='bench.gpu:stack', "
    "architecture_kwargs={'layers': layers})",
    "torch.load, mmap": "import torch; held = torch.load(path, mmap=True, weights_only=True); "
    "held = {name: value.to('cuda') for name, value in held.items()}",
    "safetensors": "from safetensors.torch import load_file; held = load_file(path, device='cuda')",
}
TIMED = """
import sys, time, torch
path, layers = sys.argv[1], int(sys.argv[2])
torch.zeros(1, device="cuda")  # CUDA's own start is everybody's
import score, safetensors.torch
start = time.perf_counter()
{way}
torch.cuda.synchronize()
print(time.perf_counter() - start)
"""


def stack(layers: int) -> nn.Module:
    """Linear layers of 64 MB each."""
    return nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(layers)))


def seconds(way: str, path: Path, layers: int) -> float:
    code = TIMED.format(way=WAYS[way])
    root = Path(__file__).parent.parent
    out = subprocess.run(
        [sys.executable, "-c", code, str(path), str(layers)], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    return float(out.split()[-1])


def bus() -> float:
    """GB/s of copies from pinned memory."""
    held = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(held, device="cuda")
    there.copy_(held)
    torch.cuda.synchronize()
    start = time.perf_counter()
    there.copy_(held, non_blocking=True)
    torch.cuda.synchronize()
    return held.numel() / 1e9 / (time.perf_counter() - start)


def loading(gigabytes: float, rounds: int) -> None:
    from safetensors.torch import save_file

    layers = max(int(gigabytes * 1e9 / TENSOR), 1)
    print(f"\n| {layers * TENSOR / 1e9:.1f} GB | seconds | GB/s |\n|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        state = stack(layers).state_dict()
        files = {"torch.save": Path(folder) / "model.pt", "safetensors": Path(folder) / "model.safetensors"}
        torch.save(state, files["torch.save"])
        save_file(state, files["safetensors"])
        cases = [
            ("loadstone", "torch.save"), ("torch.load, mmap", "torch.save"), ("loadstone", "safetensors"),
            ("safetensors", "safetensors"),
        ]  # fmt: skip
        taken: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
        for _ in range(rounds):
            for way, kind in cases:
                taken[way, kind].append(seconds(way, files[kind], layers))
        for (way, kind), found in taken.items():
            middle = statistics.median(found)
            print(f"| {way}, a file of {kind} | {middle:.2f} | {layers * TENSOR / 1e9 / middle:.1f} |")
    print(f"| the bus, from pinned memory | | {bus():.1f} |")


def running(names: list[str], tolerance: float) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from networks import perceptron, resnet, vit

    made = {"resnet50": lambda: resnet([3, 4, 6, 3], bottleneck=True), "mlp": perceptron}
    takes = {"resnet50": "float32[N, 3, 224, 224]", "mlp": "float32[N, 3072]"}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            place = Path(folder) / name
            place.mkdir()
            if name == "vit":
                vit(place)
            else:
                torch.save(made[name](), place / "model.pt")
            inputs = ["--inputs", takes[name]] if name in takes else []
            command = [str(HERE / "score"), "tune", str(place), "--json", "--tolerance", str(tolerance)]
            trust = ["--trust-code"] if name == "resnet50" else []
            out = subprocess.run([*command, *inputs, *trust], capture_output=True, text=True, check=True).stdout
            print(f"\n{name}\n\n| backend | rows/s, by the rows of a pass | error | refused |\n|---|---|--:|---|")
            for each in json.loads(out)["tried"]:
                speed = ", ".join(f"{rows}: {value:,.0f}" for rows, value in each["rows_per_second"].items())
                print(f"| {each['backend']} | {speed} | {each['error']} | {each['refused'] or ''} |")


def serving(rounds: int, requests: int = 2000, device: str = "cuda") -> None:
    """Pictures a second of ResNet-50, in turns with and without the lane to the GPU."""
    sys.path.insert(0, str(Path(__file__).parent))
    from networks import resnet

    from score.inference import staging
    from score.inference.pipeline import load_model
    from score.settings import Settings

    def no_lane(_device: torch.device) -> staging.Lane | None:
        return None

    ways = {"staged": staging.lane_to, "copied at once": no_lane}
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(resnet([3, 4, 6, 3], bottleneck=True).state_dict(), Path(folder) / "model.pt")
        pictures = [torch.rand(1, 3, 224, 224) for _ in range(64)]
        for at in range(2 * rounds):
            way = list(ways)[at % 2]
            with mock.patch.object(staging, "lane_to", ways[way]):
                predictor = load_model(Settings.load(Path(folder), device=device, inputs="float32[N, 3, 224, 224]"))
                predictor.warm_up()
            with ThreadPoolExecutor(64) as pool:
                start = time.perf_counter()
                list(pool.map(predictor, [pictures[each % 64] for each in range(requests)]))
                found[way].append(requests / (time.perf_counter() - start))
            predictor.close()
    print("\n| requests | pictures/s |\n|---|--:|")
    for way, speeds in found.items():
        print(f"| {way} | {statistics.median(speeds):,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="resnet50,vit,mlp")
    parser.add_argument("--tolerance", type=float, default=1e-2)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here")
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    loading(given.gigabytes, given.rounds)
    serving(given.rounds)
    running(given.models.split(","), given.tolerance)


if __name__ == "__main__":
    main()
