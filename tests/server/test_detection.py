"""A model that detects, as torchvision's do: a list of dicts, one a picture, over every codec."""

import io
import json
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from score.inference.pipeline import load_model
from score.inference.predictor import Predictor
from score.server.app import Application
from score.server.decoder import Decoder
from score.server.models import Models
from score.server.openapi import description
from score.server.service import Service
from score.settings import Settings
from tests.server.test_task_answers import equal, picture, png

Serve = Callable[..., SimpleNamespace]
CLASS = """
import torch

class Finds(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, images):
        found = []
        for image in images:
            count = 1 + int(image.sum().abs() * 10) % 3
            boxes = torch.arange(4 * count, dtype=torch.float32).reshape(count, 4) + image.mean()
            found.append({"boxes": boxes, "labels": torch.arange(count), "scores": boxes[:, 0] * self.weight[0],
                          "masks": torch.ones(count, 1, 2, 2)})
        return found
"""


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("finder")
    (folder / "finds.py").write_text(CLASS)
    torch.save({"weight": torch.ones(3)}, folder / "model.pt")
    predictor = load_model(
        Settings.load(
            folder, device="cpu", architecture=f"{folder}/finds.py:Finds", inputs="float32[N, 3, 8, 8]",
            labels=["cat", "dog", "cow"], image={"resize": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]},
            checkpoint="model.pt", log_requests=False,
        )
    )  # fmt: skip
    predictor.warm_up()
    return predictor


@pytest.fixture
def port(finder: Predictor, listening: Serve) -> int:
    return int(listening(Application(Models.of_one(Service.of(finder)), (), None, Decoder(), hooked=False)).port)


def ask(port: int, body: bytes, kind: str = "application/json", accept: str = "*/*") -> bytes:
    headers = {"Content-Type": kind, "Accept": accept}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/score", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def wanted(finder: Predictor, images: np.ndarray) -> list[dict[str, Any]]:
    with torch.inference_mode():
        found = finder.module(torch.from_numpy(images))
    names = ["cat", "dog", "cow"]
    return [
        {**{name: each.tolist() for name, each in row.items()}, "label_names": [names[at] for at in row["labels"]]}
        for row in found
    ]


IMAGES = np.random.default_rng(0).random((16, 3, 8, 8)).astype(np.float32)


def test_each_picture_has_its_own_boxes(finder: Predictor, port: int) -> None:
    expected = wanted(finder, IMAGES)
    assert equal(json.loads(ask(port, json.dumps({"inputs": IMAGES.tolist()}).encode()))["predictions"], expected)
    one = json.loads(ask(port, json.dumps({"data": IMAGES[:1].tolist()}).encode()))["predictions"]
    assert equal(one, expected[:1])

    def alone(at: int) -> Any:
        return json.loads(ask(port, json.dumps({"instances": IMAGES[at : at + 1].tolist()}).encode()))["predictions"]

    with ThreadPoolExecutor(16) as threads:
        assert equal([rows[0] for rows in threads.map(alone, range(16))], expected)
    assert len({len(row["boxes"]) for row in expected}) > 1


def test_the_other_codecs_name_each_rows_arrays(finder: Predictor, port: int) -> None:
    expected = wanted(finder, IMAGES[:2])
    body = io.BytesIO()
    np.save(body, IMAGES[:2])
    archive = zipfile.ZipFile(io.BytesIO(ask(port, body.getvalue(), "application/x-npy")))
    assert np.load(archive.open("output_1.boxes.npy")).tolist() == expected[1]["boxes"]
    tensor = {"name": "images", "shape": [2, 3, 8, 8], "datatype": "FP32", "data": IMAGES[:2].reshape(-1).tolist()}
    outputs = json.loads(ask(port, json.dumps({"inputs": [tensor]}).encode()))["outputs"]
    by_name = {each["name"]: each for each in outputs}
    assert by_name["output_0.boxes"]["shape"] == [len(expected[0]["boxes"]), 4]
    assert by_name["output_0.label_names"]["datatype"] == "BYTES"
    assert by_name["output_0.label_names"]["data"] == expected[0]["label_names"]


def test_a_picture_as_the_body(port: int) -> None:
    (found,) = json.loads(ask(port, png(picture(1)), "image/png"))["predictions"]
    assert set(found) == {"boxes", "labels", "scores", "masks", "label_names"}


def test_the_description_promises_no_sizes(finder: Predictor) -> None:
    assert finder.outputs == {}
    assert "output_0" not in json.dumps(description(finder.signature, finder.outputs))
