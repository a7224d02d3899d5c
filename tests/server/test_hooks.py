"""`preprocess` and `postprocess` beside a class: requests and answers of the model's own kind."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from score.cli.app import app
from score.inference.pipeline import load_model
from score.inference.predictor import Predictor
from score.server.app import Application
from score.server.decoder import Decoder
from score.server.models import Models
from score.server.service import Service
from score.settings import Settings
from tests.server.test_task_answers import picture, png

Serve = Callable[..., SimpleNamespace]
FILE = """
from dataclasses import dataclass
import numpy as np
import torch

LETTERS = "abcdefghij"
example = {"words": ["abc", "jjj"]}


@dataclass
class Answer:
    word: str
    total: float
    values: np.ndarray


class Sums(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(10))

    def forward(self, x):
        return x * self.weight


def preprocess(request):
    if isinstance(request, np.ndarray) and request.dtype == np.uint8:
        return torch.full((1, 10), float(request.shape[0]))
    words = request["words"]
    return torch.tensor([[float(word.count(letter)) for letter in LETTERS] for word in words])


def postprocess(outputs):
    return [Answer("".join(LETTERS[at] for at in np.nonzero(row)[0]), float(row.sum()), row[:2]) for row in outputs]
"""


def loaded(folder: Path, file: str = FILE, **settings: Any) -> Predictor:
    (folder / "sums.py").write_text(file)
    torch.save({"weight": torch.ones(10)}, folder / "model.pt")
    given = {"architecture": f"{folder}/sums.py:Sums", "inputs": "float32[N, 10]", "log_requests": False, **settings}
    predictor = load_model(Settings.load(folder / "model.pt", device="cpu", **given))
    predictor.warm_up()
    return predictor


@pytest.fixture
def port(tmp_path: Path, listening: Serve) -> int:
    models = Models.of_one(Service.of(loaded(tmp_path)))
    return int(listening(Application(models, (), None, Decoder(), hooked=False)).port)


def ask(port: int, document: Any, kind: str = "application/json") -> Any:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/score", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def test_a_request_and_an_answer_of_the_models_own_kind(port: int) -> None:
    found = ask(port, {"words": ["abc", "aa"]})
    assert found == [
        {"word": "abc", "total": 3.0, "values": [1.0, 1.0]},
        {"word": "a", "total": 2.0, "values": [2.0, 0.0]},
    ]
    assert ask(port, {"words": ["j"]}) == [
        {"word": "j", "total": 1.0, "values": [0.0, 0.0]}
    ]  # of one shape for one row


def test_many_at_once_each_get_their_own(port: int) -> None:
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda at: ask(port, {"words": ["abcdefghij"[at % 10] * (at + 1)]}), range(64)))
    assert [(each[0]["word"], each[0]["total"]) for each in found] == [
        ("abcdefghij"[at % 10], float(at + 1)) for at in range(64)
    ]


def test_a_large_body_and_a_picture(port: int) -> None:
    assert len(ask(port, {"words": ["abc"] * 100_000})) == 100_000
    assert ask(port, png(picture(2)), "image/png")["predictions"][0]["total"] == 420.0


def test_what_a_hook_raises_is_said(port: int) -> None:
    error = ask(port, {"sentences": ["abc"]})["error"]
    assert error["code"] == "model_rejected"
    assert error["message"] == "preprocess raised KeyError: 'words'"
    assert ask(port, b"not json")["error"]["code"] == "invalid_json"
    assert ask(port, {"words": ["abc", 3]})["error"]["code"] == "model_rejected"


def test_the_example_is_what_check_sends(tmp_path: Path) -> None:
    predictor = loaded(tmp_path)
    assert predictor.example() == {"words": ["abc", "jjj"]}
    options = ["--architecture", f"{tmp_path}/sums.py:Sums", "--inputs", "float32[N, 10]"]
    done = CliRunner().invoke(app, ["check", str(tmp_path / "model.pt"), *options])
    assert done.exit_code == 0, done.output
    assert '"word":"abc"' in done.output


def test_without_an_example_check_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(FILE.replace("example =", "another ="))
    torch.save({"weight": torch.ones(10)}, tmp_path / "model.pt")
    options = ["--architecture", f"{tmp_path}/sums.py:Sums", "--inputs", "float32[N, 10]"]
    done = CliRunner().invoke(app, ["check", str(tmp_path / "model.pt"), *options])
    assert done.exit_code == 3
    assert "example = {...}" in done.output


def test_postprocess_alone_stands_where_the_numbers_would(tmp_path: Path) -> None:
    file = FILE.replace("def preprocess", "def _not_it").replace("return [Answer", "return [dict(a=1)] or [Answer")
    predictor = loaded(tmp_path, file)
    assert predictor.hooks.preprocess is None
    from score.codecs.base import Body
    from score.inference.pipeline import infer

    body = json.dumps({"inputs": np.ones((1, 10)).tolist()}).encode()
    assert json.loads(infer(predictor, Body(body)).encoded.body) == {"predictions": [{"a": 1}]}


def test_a_function_that_is_only_imported_is_no_hook(tmp_path: Path) -> None:
    file = FILE.replace("def preprocess", "def _own").replace(
        "import torch\n", "import torch\nfrom json import loads as preprocess\n", 1
    )
    assert loaded(tmp_path, file).hooks.preprocess is None
