"""Train a small real model on real input, and save it in every way that people do.

    python examples/train_digits.py [FOLDER]

A convolutional network learns scikit-learn's bundled 8 x 8 digits in seconds (at least 97 % on held-back images), and
is written to FOLDER (default `examples/digits`), a folder for each format. What it writes is deterministic.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from models.digits_cnn import DigitsCNN

HELD_BACK = 360
LEAST_ACCURACY = 0.97

State = dict[str, torch.Tensor]


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images [1437, 1, 8, 8] and labels, then the held-back ones [360, 1, 8, 8]; pixels from 0 to 16."""
    data = load_digits()
    images = data.images.astype(np.float32)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:-HELD_BACK], order[-HELD_BACK:]
    return images[train], data.target[train], images[test], data.target[test]


def train(epochs: int = 20) -> tuple[DigitsCNN, torch.optim.Optimizer, float]:
    """The trained model in evaluation mode, its optimizer, and its accuracy on the held-back images."""
    torch.manual_seed(0)
    images, labels, held_images, held_labels = map(torch.from_numpy, digits())
    model = DigitsCNN()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    quiet = not sys.stderr.isatty()
    for _ in track(range(epochs), "training", console=Console(stderr=True), transient=True, disable=quiet):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()
    with torch.inference_mode():
        accuracy = (model(held_images).argmax(1) == held_labels).float().mean().item()
    return model, optimizer, accuracy


def training_checkpoint(model: DigitsCNN, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "epoch": 20}


def lightning_checkpoint(model: DigitsCNN, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """As Lightning's trainer writes it for a module that holds the network as `self.model`."""
    return {
        "epoch": 20,
        "global_step": 460,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "loops": {},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"classes": 10, "width": 32, "lr": 2e-3},
    }


def exported(model: DigitsCNN) -> torch.export.ExportedProgram:
    return torch.export.export(model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.AUTO},))


def writers(model: DigitsCNN, optimizer: torch.optim.Optimizer) -> dict[str, Callable[[Path], Any]]:
    """Every way of saving: the file's place below the folder, and what writes it."""
    state: State = model.state_dict()
    checkpoint = training_checkpoint(model, optimizer)
    legacy = {"_use_new_zipfile_serialization": False}
    return {
        "torch-zip/model.pt": lambda path: torch.save(state, path),
        "torch-zip-training/checkpoint.pt": lambda path: torch.save(checkpoint, path),
        "torch-zip-lightning/last.ckpt": lambda path: torch.save(lightning_checkpoint(model, optimizer), path),
        "torch-zip-module/model.pt": lambda path: torch.save(model, path),
        "torch-legacy/model.pth": lambda path: torch.save(state, path, **legacy),
        "torch-legacy-training/checkpoint.pth.tar": lambda path: torch.save(checkpoint, path, **legacy),
        "torch-legacy-module/model.pth": lambda path: torch.save(model, path, **legacy),
        "safetensors/model.safetensors": lambda path: (save_file(state, path), path.chmod(0o644)),
        "torchscript/model.pt": lambda path: torch.jit.script(model).save(str(path)),
        "torch-export/model.pt2": lambda path: torch.export.save(exported(model), path),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "digits")
    folder: Path = parser.parse_args().folder
    model, optimizer, accuracy = train()
    print(f"accuracy on {HELD_BACK} held-back images: {accuracy:.1%}", file=sys.stderr)
    if accuracy < LEAST_ACCURACY:
        sys.exit(f"that is less than {LEAST_ACCURACY:.0%}: the example is broken")
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in writers(model, optimizer).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        print(f"wrote {path}", file=sys.stderr)
    _, _, images, labels = digits()
    body = json.dumps({"data": images[:1].astype(int).tolist()})
    (folder / "request.json").write_text(body)
    print(f"wrote {folder / 'request.json'}: a request with an image of the digit {labels[0]}", file=sys.stderr)


if __name__ == "__main__":
    main()
