"""The example in every format, through the real server: the same answers as the model gives in torch."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.train_digits import writers
from models.digits_cnn import DigitsCNN
from tests.real_server import Server, running

FORMATS = ("torch-zip", "torch-legacy", "safetensors", "torchscript", "torch-export")
SAVED = [
    "torch-zip/model.pt",
    "torch-zip-training/checkpoint.pt",
    "torch-zip-lightning/last.ckpt",
    "torch-zip-module/model.pt",
    "torch-legacy/model.pth",
    "torch-legacy-training/checkpoint.pth.tar",
    "torch-legacy-module/model.pth",
    "safetensors/model.safetensors",
    "torchscript/model.pt",
    "torch-export/model.pt2",
]


# A server takes three seconds to start; the other ways are read by faster tests too.
FAST = (
    "torch-zip/model.pt",
    "torch-legacy-training/checkpoint.pth.tar",
    "safetensors/model.safetensors",
    "torch-export/model.pt2",
)
WAYS = [pytest.param(way, marks=() if way in FAST else pytest.mark.slow) for way in SAVED]


@pytest.fixture(scope="module", params=WAYS)
def server(
    request: pytest.FixtureRequest, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    # Half of them by their folder, half by the file itself: both are how Azure mounts a model.
    path = digits_folder / request.param
    given = path if SAVED.index(request.param) % 2 else path.parent
    with running(given, tmp_path_factory.mktemp("server")) as server:
        yield server


def test_answers_are_those_of_the_model_in_torch(
    server: Server, trained: tuple[DigitsCNN, object], held_back: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = held_back
    answer = server.post({"data": images.tolist()})
    assert answer.status == 200, answer.body
    got = np.array(answer.json["predictions"], dtype=np.float32)
    with torch.inference_mode():
        wanted = trained[0](images).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert (got.argmax(1) == labels.numpy()).mean() >= 0.97
    card = server.request(method="GET").json
    assert card["model"]["parameters"] == sum(value.numel() for value in trained[0].state_dict().values())
    assert card["signature"]["inputs"] == {"pixels": "float32[N, 1, 8, 8]"}


def test_the_example_is_served_in_every_way_that_it_is_saved(trained: tuple) -> None:
    assert list(writers(*trained)) == SAVED
    assert {name.split("/")[0] for name in SAVED} >= set(FORMATS)


def test_the_curl_line_in_the_log_works(server: Server) -> None:
    line = next(line for line in server.log.splitlines() if line.startswith("curl"))
    body = line.split(" -d ")[1].strip("'")
    # as curl sends it: form-urlencoded, which is what Flask leaves out of request.data
    answer = server.request(body=body.encode(), Content_Type="application/x-www-form-urlencoded")
    assert answer.status == 200, answer.body
    assert np.array(json.loads(answer.body)["predictions"]).shape == (1, 10)
