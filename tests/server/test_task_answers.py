"""Each task over HTTP: the answer is the one of `transformers.pipeline`, alone and among 16 different requests."""

import base64
import copy
import io
import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from score.inference.pipeline import load_model
from score.inference.tasks.runner import jsonable
from score.server.app import Application
from score.server.decoder import Decoder
from score.server.service import Service
from score.settings import Settings
from tests.inference.tasks import tiny

pytest.importorskip("transformers")
Serve = Callable[..., SimpleNamespace]
SENTENCES = [" ".join(tiny.WORDS[at : at + 2 + at % 9]) for at in range(16)]
LABELS = {"candidate_labels": ["good", "bad", "fine day"]}
PICTURES = {"image-classification", "image-segmentation", "object-detection", "zero-shot-image-classification"}
GENERATES = {"max_new_tokens": 5, "do_sample": False}
RECORDINGS = {"automatic-speech-recognition", "audio-classification"}
PARAMETERS: dict[str, dict[str, Any]] = {
    "zero-shot-classification": LABELS,
    "zero-shot-image-classification": LABELS,
    "text-generation": GENERATES,
    "object-detection": {"threshold": 0.0},
    "token-classification": {"aggregation_strategy": "simple"},
}
PIPED = sorted(set(tiny.FOLDERS) - {"question-answering", "text2text-generation"})


def picture(at: int) -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(at).integers(0, 255, (40 + at, 50, 3), dtype=np.uint8))


def recording(at: int) -> np.ndarray:
    """Half a second and more of tones, at 16,000 samples a second."""
    times = np.arange(8_000 + 400 * at, dtype=np.float32) / 16_000
    return np.sin(2 * np.pi * (200 + 50 * at) * times).astype(np.float32) / 2


def wav(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV") -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype="FLOAT" if kind == "WAV" else "PCM_16")
    return out.getvalue()


def png(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def items(task: str) -> list[Any]:
    """16 different items, as the pipeline takes them."""
    if task in PICTURES:
        return [picture(at) for at in range(16)]
    if task in RECORDINGS:
        return [{"raw": recording(at), "sampling_rate": 16_000} for at in range(16)]
    return [f"{text} [MASK]" for text in SENTENCES] if task == "fill-mask" else SENTENCES


def sent(item: Any) -> Any:
    if isinstance(item, dict):
        return base64.b64encode(wav(item["raw"])).decode()
    return item if isinstance(item, str) else base64.b64encode(png(item)).decode()


def asked(port: int, body: bytes, kind: str = "application/json") -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/score", body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def equal(one: Any, other: Any) -> bool:
    """Whether two answers are the same, numbers within float tolerance."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return bool(np.isclose(one, other, rtol=1e-3, atol=1e-4))
    return bool(one == other)


@cache
def folder(task: str, place: Path) -> Path:
    return tiny.made(task, place / task)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


def serving(task: str, place: Path, listening: Serve) -> int:
    given = {"task": task} if task == "zero-shot-classification" else {}
    predictor = load_model(Settings.load(folder(task, place), device="cpu", log_requests=False, **given))
    predictor.warm_up()
    return int(listening(Application(Service.of(predictor), None, Decoder(), hooked=False)).port)


@pytest.mark.parametrize("task", PIPED)
def test_answers_are_those_of_the_pipeline(task: str, place: Path, listening: Serve) -> None:
    from transformers import pipeline

    port, given = serving(task, place, listening), PARAMETERS.get(task, {})
    theirs = pipeline(task, model=str(folder(task, place)), device="cpu")
    wanted = [jsonable(theirs(copy.copy(item), **given)) for item in items(task)]

    def alone(item: Any) -> Any:
        return asked(port, json.dumps({"inputs": sent(item), "parameters": given}).encode())

    assert equal(alone(items(task)[0]), wanted[0])
    with ThreadPoolExecutor(16) as threads:
        for found, expected in zip(threads.map(alone, items(task)), wanted, strict=True):
            assert equal(found, expected), (found, expected)
    listed = json.dumps({"inputs": [sent(item) for item in items(task)], "parameters": given}).encode()
    assert equal(asked(port, listed), jsonable(theirs(items(task), **given)))


def test_what_is_generated_follows_the_folders_own_configuration(place: Path, listening: Serve) -> None:
    from transformers import pipeline

    port = serving("text-generation", place, listening)
    theirs = pipeline("text-generation", model=str(folder("text-generation", place)), device="cpu")
    found = asked(port, json.dumps({"inputs": "the weights are", "parameters": {"do_sample": False}}).encode())
    assert found == theirs("the weights are", do_sample=False)
    assert len(theirs.tokenizer(found[0]["generated_text"])["input_ids"]) <= 3 + 7 + 2


def test_a_picture_as_the_body(place: Path, listening: Serve) -> None:
    from transformers import pipeline

    port = serving("image-classification", place, listening)
    theirs = pipeline("image-classification", model=str(folder("image-classification", place)), device="cpu")
    assert equal(asked(port, png(picture(3)), "image/png"), jsonable(theirs(picture(3))))
    azure = {"input_data": {"columns": ["image"], "index": [0, 1], "data": [[sent(picture(at))] for at in (1, 2)]}}
    assert equal(asked(port, json.dumps(azure).encode()), [jsonable(theirs(picture(at))) for at in (1, 2)])


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_recording_as_the_body(kind: str, place: Path, listening: Serve) -> None:
    from transformers import pipeline

    port = serving("audio-classification", place, listening)
    theirs = pipeline("audio-classification", model=str(folder("audio-classification", place)), device="cpu")
    samples = (recording(2) * 32767).round() / 32768  # what FLAC of 16 bits can hold
    wanted = jsonable(theirs({"raw": samples.astype(np.float32), "sampling_rate": 16_000}))
    stereo = np.stack([samples, samples], axis=1)
    for body in (wav(samples, kind=kind), wav(stereo, kind=kind)):
        assert equal(asked(port, body, f"audio/{kind.lower()}"), wanted)
