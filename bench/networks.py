"""What a tuned model gives over torch as it is: whole server, 1 and 16 connections, and the backend alone.

    python bench/networks.py [--models resnet18,mlp] [--seconds 6] [--rounds 3] [--tolerance 1e-3]

Random weights in ResNet-18 and -50, MobileNetV2, ViT-B/16, an LSTM tagger, a perceptron of 3072-2048-2048-1000, and a
classifier of MiniLM's size with texts of 4 to 40 words. Each is tuned once (`score tune`), then served with
`SCORE_BACKEND=eager` and as tuned, in turns; pictures, tokens and numbers as npy, a row a request, texts as JSON. The
table gives medians of the rounds, and beside them what `score tune` measured of the backend alone, in one process and
without HTTP, with as many rows a pass as connections; "16, of alone" is the share of that which the server answers (for
texts, the rows alone are of the middle length of those that `score tune` made up). Needs wrk.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contenders import CACHE, OURS, Case, contenders
from serve import first_answer, load, serving, write_script
from texts import LABELS, save_tokenizer, write_texts

CONNECTIONS = (1, 16)
AS_NPY = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
HERE = Path(sys.executable).parent


def resnet(depths: list[int], bottleneck: bool) -> Any:
    from models.resnet import ResNet

    return settled(ResNet(depths, bottleneck))


def mobilenet() -> Any:
    from models.mobilenet_v2 import MobileNetV2

    return settled(MobileNetV2())


def settled(network: Any) -> Any:
    """With the means and variances of some pictures in its batch norms: without, what random weights answer hardly
    depends on the picture after fifty layers, and any way to compute it would agree."""
    import torch

    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the plain mean of what comes
    with torch.no_grad():
        network.train()(torch.rand(16, 3, 224, 224))
    return network.eval()


def tagger() -> Any:
    from models.tagger import LSTMTagger

    return LSTMTagger(10_000, 128, 256, 20)


def perceptron() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(3072, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1000)
    )  # fmt: skip


def vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(ViTConfig(id2label={at: str(at) for at in range(1000)})).save_pretrained(folder)


def minilm(folder: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=save_tokenizer(folder), hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, id2label=LABELS,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to measure: what builds it, what it takes (none for texts), and of how many dimensions its answer is
    beside the rows."""

    build: Callable[..., Any]
    takes: str = ""
    shape: tuple[int, ...] = ()
    folder: bool = False
    answers: int = 1

    @property
    def of_texts(self) -> bool:
        return not self.shape

    @property
    def dtype(self) -> str:
        return self.takes.partition("[")[0]


PIXELS = ("float32[N, 3, 224, 224]", (1, 3, 224, 224))
MODELS: Mapping[str, Model] = {
    "resnet18": Model(lambda: resnet([2, 2, 2, 2], False), *PIXELS),
    "resnet50": Model(lambda: resnet([3, 4, 6, 3], True), *PIXELS),
    "mobilenet_v2": Model(mobilenet, *PIXELS),
    "vit_b_16": Model(vit, *PIXELS, folder=True),
    "lstm": Model(tagger, "int64[N, 32]", (1, 32), answers=2),
    "mlp": Model(perceptron, "float32[N, 3072]", (1, 3072)),
    "minilm": Model(minilm, folder=True),
}


def make(name: str, model: Model) -> tuple[Path, Path]:
    """The checkpoint, and wrk's script."""
    import torch

    torch.manual_seed(0)
    folder = CACHE / "tuned" / name
    folder.mkdir(parents=True, exist_ok=True)
    if model.folder:
        model.build(folder)
    else:
        torch.save(model.build() if name == "mlp" else model.build().state_dict(), folder / "model.pt")
    return folder if model.folder else folder / "model.pt", script(name, model)


def script(name: str, model: Model) -> Path:
    import numpy as np

    place = CACHE / "tuned" / f"{name}.json.lua"
    if model.of_texts:
        write_texts(place)
        return place
    body = place.with_suffix(".npy")
    rows = np.random.default_rng(0).random(model.shape)
    np.save(body, rows.astype(np.float32) if "float" in model.takes else (rows * 1000).astype(np.int64))
    write_script(place, body, AS_NPY)
    return place


def tuned(path: Path, model: Model, tolerance: float) -> dict[str, Any]:
    """What `score tune` finds."""
    takes = ["--inputs", model.takes] if model.takes else []
    done = subprocess.run(
        [HERE / "score", "tune", path, *takes, "--tolerance", str(tolerance), "--tune-seconds", "150", "--json"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def trusted(found: Mapping[str, Any]) -> dict[str, str]:
    """What Inductor compiled, if that was best, is native code."""
    files = json.loads(Path(found["written"]).read_text())["files"]
    return {"SCORE_TRUST_SHA256": files["graph.pt2"]} if "graph.pt2" in files else {}


def measured(path: Path, model: Model, wrk: Path, how: Mapping[str, str], seconds: float) -> dict[int, float]:
    """Requests a second by connections, and under 0 the seconds to the first answer."""
    environment = {**how, **({"SCORE_INPUTS": model.takes} if model.takes else {})}
    ours = dataclasses.replace(contenders()[OURS], environment=environment)
    start = time.monotonic()
    with serving(OURS, ours, Case("tuned", path, "json" if model.of_texts else "npy")):
        first = time.monotonic() - start
        if model.of_texts:
            first_answer("/score", wrk.with_suffix(""))
        found = {}
        for connections in CONNECTIONS:
            load(wrk, "/score", connections, 2)  # warm up, and have ended what was begun for others
            found[connections] = load(wrk, "/score", connections, seconds)["rps"]
    return {0: first, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    given = parser.parse_args()
    print(
        "| model | backend | answers | alone, x eager | 1 connection: eager, tuned /s | x | 16: eager, tuned /s | x "
        "| 16, of alone | start: eager, tuned s |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for name in given.models.split(","):
        model = MODELS[name]
        path, wrk = make(name, model)
        found = tuned(path, model, given.tolerance)
        tried = {each["backend"]: each for each in found["tried"]}
        best = tried[found["best"]]
        ways = {
            "eager": {"SCORE_BACKEND": "eager"},
            "tuned": {"SCORE_TOLERANCE": str(given.tolerance), **trusted(found)},
        }
        rounds: dict[str, list[dict[int, float]]] = {way: [] for way in ways}
        for _ in range(given.rounds):
            for way, how in ways.items():
                rounds[way].append(measured(path, model, wrk, how, given.seconds))
                print(f"  {name} {way} {rounds[way][-1]}", file=sys.stderr)
        at = {
            way: {key: statistics.median(each[key] for each in rounds[way]) for key in (0, *CONNECTIONS)}
            for way in ways
        }
        top = best["top_1"]
        agree = f"{best['error']:.0e}" + (f", {top['same']} of {top['rows']} best classes" if top else "")
        alone = ", ".join(
            f"{speed / tried['eager']['rows_per_second'][rows]:.1f} ({rows} rows)"
            for rows, speed in best["rows_per_second"].items()
        )
        columns = [name, found["best"], agree, alone]
        for connections in CONNECTIONS:
            one, other = at["eager"][connections], at["tuned"][connections]
            columns += [f"{one:,.0f}, {other:,.0f}", f"{other / one:.2f}"]
        columns.append(
            f"{at['tuned'][CONNECTIONS[-1]] / best['rows_per_second'][max(best['rows_per_second'], key=int)]:.2f}"
        )
        print("|", " | ".join([*columns, f"{at['eager'][0]:.1f}, {at['tuned'][0]:.1f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
