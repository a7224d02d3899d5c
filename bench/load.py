"""How long until a 1 GB checkpoint is a model on the CPU, and how much memory it takes.

    python bench/load.py [--layers 64] [--width 2048] [--runs 5] [--keep FOLDER]

Makes a training checkpoint of 64 x Linear(2048, 2048) (1.07 GB of weights), once as torch-zip and once as torch-legacy.
Then, in a fresh process for each run, alternating so that a drifting machine favours none:

  usual      build the model; torch.load(weights_only=True); load_state_dict
  mmap       the same with torch.load(mmap=True)      (torch can't for torch-legacy)
  read       torch.load alone, into no model
  loadstone  find the checkpoint, detect its format, read it, find the class, align, assign
  inspect    what `score inspect --json` says of it, the SHA-256 of its bytes included

Seconds are of these steps only: both sides have imported torch, and the file is in the page cache (it is read once
before). Memory is the process's peak resident size after one forward pass, which makes every weight be read; it counts
mapped pages, which the kernel can drop again and processes share. The answers of all are compared.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def make(folder: Path, layers: int, width: int) -> dict[str, Path]:
    """Write the checkpoint in both generations of torch.save, and the class beside it."""
    import torch

    (folder / "deep.py").write_text(
        "from torch import nn\n\n\nclass Deep(nn.Sequential):\n"
        "    def __init__(self):\n"
        f"        super().__init__(*[nn.Linear({width}, {width}) for _ in range({layers})])\n"
    )
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoint = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "epoch": 3}
    paths = {}
    for name, zipped in (("torch-zip", True), ("torch-legacy", False)):
        paths[name] = folder / name / "checkpoint.pt"
        paths[name].parent.mkdir()
        torch.save(checkpoint, paths[name], _use_new_zipfile_serialization=zipped)
    return paths


def usual(path: Path, module: Path, mmap: bool) -> Any:
    import torch

    sys.path.insert(0, str(module.parent))
    from deep import Deep  # type: ignore[import-not-found]

    model = Deep()
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    model.load_state_dict(checkpoint["model_state_dict"])
    return model.eval()


def loadstone(path: Path, module: Path) -> Any:
    from score.inference.pipeline import load_model
    from score.settings import Settings

    settings = Settings.load(path.parent, architecture=f"{module}:Deep", device="cpu")
    return load_model(settings).module


def worker(loader: str, path: Path, module: Path, width: int) -> None:
    """One run, in a process of its own; prints seconds, peak bytes and a digest of an answer."""
    import torch

    import score.inference.pipeline  # noqa: F401  # imports are not what is measured, on either side
    from score.formats.registry import formats

    formats()

    torch.set_num_threads(2)
    before = peak_bytes()
    start = time.perf_counter()
    if loader == "inspect":
        model = look(path)
    elif loader == "read":
        model = torch.load(path, map_location="cpu", weights_only=True)
    else:
        model = loadstone(path, module) if loader == "loadstone" else usual(path, module, mmap=loader == "mmap")
    seconds = time.perf_counter() - start
    answer = None
    if isinstance(model, torch.nn.Module):
        with torch.inference_mode():
            answer = model(torch.ones(1, width)).double().sum().item()
    print(json.dumps({"seconds": seconds, "peak": peak_bytes(), "above": peak_bytes() - before, "answer": answer}))


def peak_bytes() -> int:
    """The largest resident size so far. Not ru_maxrss, which a process inherits from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def look(path: Path) -> Any:
    from score.cli.inspection import inspect
    from score.settings import Settings

    return inspect(path, Settings.load(path))


def measure(paths: dict[str, Path], module: Path, width: int, runs: int) -> dict[tuple[str, str], dict[str, float]]:
    """Medians by (format, loader). Fails if two loaders' answers differ."""
    wanted = [(format, loader) for format in paths for loader in ("usual", "mmap", "read", "loadstone", "inspect")]
    wanted.remove(("torch-legacy", "mmap"))
    found: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in wanted}
    for path in paths.values():
        path.read_bytes()
    for _ in range(runs):
        for format, loader in wanted:
            command = [sys.executable, __file__, "--worker", loader, str(paths[format]), str(module), str(width)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
            found[format, loader].append(json.loads(done.stdout))
    answers = {run["answer"] for runs_of in found.values() for run in runs_of if run["answer"] is not None}
    if max(answers) - min(answers) > 1e-6 * max(1.0, abs(max(answers))):
        sys.exit(f"the loaders' answers differ: {answers}")
    return {
        key: {name: statistics.median(run[name] for run in runs_of) for name in ("seconds", "peak", "above")}
        for key, runs_of in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        loader, path, module, width = options.worker
        worker(loader, Path(path), Path(module), int(width))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = make(folder, options.layers, options.width)
        size = paths["torch-zip"].stat().st_size
        layers = f"{options.layers} x Linear({options.width}, {options.width})"
        print(f"{layers}: {size / 1e9:.2f} GB, median of {options.runs}")
        found = measure(paths, folder / "deep.py", options.width, options.runs)
    head = ("seconds", "x usual", "x read", "peak GB", "x usual", "above")
    print(f"{'format':<14}{'loader':<12}{''.join(f'{name:>9}' for name in head)}")
    for (format, loader), figures in found.items():
        base, read = found[format, "usual"], found[format, "read"]
        print(
            f"{format:<14}{loader:<12}{figures['seconds']:>9.3f}{base['seconds'] / figures['seconds']:>8.1f}x"
            f"{read['seconds'] / figures['seconds']:>8.1f}x{figures['peak'] / 1e9:>9.2f}"
            f"{figures['peak'] / base['peak']:>8.2f}x{figures['above'] / 1e9:>9.3f}"
        )


if __name__ == "__main__":
    main()
