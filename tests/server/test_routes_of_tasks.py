"""Texts and pictures by the routes of other protocols: a task's answers, each as its protocol has them."""

import base64
import io
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from score.inference.pipeline import load_model
from score.server.app import Application
from score.server.decoder import Decoder
from score.server.models import Models
from score.server.routes import every_row
from score.server.service import Service
from score.settings import Settings
from tests.inference.tasks import tiny

pytest.importorskip("transformers")
Serve = Callable[..., SimpleNamespace]


def served(folder: Path, listening: Serve) -> Callable[..., Any]:
    models = Models.of_one(Service.of(load_model(Settings.load(folder, device="cpu", model_name="m"))))
    port = listening(Application(models, every_row(), None, Decoder(), hooked=False)).port

    def ask(path: str, body: Any, kind: str = "application/json", method: str = "POST") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    return ask


def test_pictures(tmp_path: Path, listening: Serve) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    png, encoded = file.getvalue(), base64.b64encode(file.getvalue()).decode()
    ask = served(tiny.made("image-classification", tmp_path / "model"), listening)
    wanted = ask("/score", png, "image/png")
    assert {"label", "score"} == wanted[0].keys()
    assert ask("/predictions/m", png, "image/png", "PUT") == wanted
    assert ask("/invocations", png, "image/png") == {"predictions": wanted}
    assert ask("/v1/models/m:predict", {"instances": [{"b64": encoded}]}) == {"predictions": [wanted]}
    tensor = {"name": "picture", "shape": [1], "datatype": "BYTES", "data": [encoded]}
    (output,) = ask("/v2/models/m/infer", {"inputs": [tensor]})["outputs"]
    assert json.loads(output["data"][0]) == wanted


def near(found: list[Any], wanted: list[Any]) -> None:
    """Texts of one pass may differ from those of several by a float's last digits."""
    assert [each["label"] for each in found] == [each["label"] for each in wanted]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in wanted])


def test_texts(tmp_path: Path, listening: Serve) -> None:
    ask = served(tiny.made("text-classification", tmp_path / "model"), listening)
    wanted = [ask("/score", {"inputs": text})[0] for text in ("a fine day", "no")]
    both = ["a fine day", "no"]
    near(ask("/v1/models/m:predict", {"instances": both})["predictions"], wanted)
    near(ask("/invocations", {"inputs": both})["predictions"], wanted)
    near(ask("/invocations", b"text\na fine day\nno\n", "text/csv")["predictions"], wanted)
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": both}
    (output,) = ask("/v2/models/m/infer", {"inputs": [tensor]})["outputs"]
    near([json.loads(each) for each in output["data"]], wanted)


def test_embeddings(tmp_path: Path, listening: Serve) -> None:
    ask = served(tiny.sentences(tmp_path / "model"), listening)
    wanted = ask("/score", {"inputs": ["hello", "a second text"]})
    found = ask("/v1/embeddings", {"model": "m", "input": ["hello", "a second text"]})
    np.testing.assert_allclose([each["embedding"] for each in found["data"]], wanted, rtol=1e-5)
    assert found["model"] == "m"
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 2
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["hello", "a second text"]}
    (output,) = ask("/v2/models/m/infer", {"inputs": [tensor]})["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [2, len(wanted[0])])
