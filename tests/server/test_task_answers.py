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
from score.server.models import Models
from score.server.service import Service
from score.settings import Settings
from tests.inference.tasks import tiny

pytest.importorskip("transformers")
Serve = Callable[..., SimpleNamespace]
SENTENCES = [" ".join(tiny.WORDS[at : at + 2 + at % 9]) for at in range(16)]
LABELS = {"candidate_labels": ["good", "bad", "fine day"]}
PICTURES = {
    *("image-classification", "image-segmentation", "object-detection", "zero-shot-image-classification"),
    *("depth-estimation", "image-to-text"),
}
GENERATES = {"max_new_tokens": 5, "do_sample": False}
RECORDINGS = {"automatic-speech-recognition", "audio-classification"}
AGGREGATIONS = ("none", "simple", "first", "average", "max")
SUBTASKS = ("semantic", "instance", "panoptic")
# The folder, its task, and what is asked of it.
PIPED: list[Any] = [
    ("text-classification", "text-classification", {}),
    ("text-classification", "text-classification", {"top_k": 2}),
    ("fill-mask", "fill-mask", {}),
    ("feature-extraction", "feature-extraction", {}),
    ("zero-shot-classification", "zero-shot-classification", LABELS),
    ("zero-shot-image-classification", "zero-shot-image-classification", LABELS),
    ("text-generation", "text-generation", GENERATES),
    ("image-classification", "image-classification", {}),
    ("image-segmentation", "image-segmentation", {}),
    ("object-detection", "object-detection", {"threshold": 0.0}),
    ("depth-estimation", "depth-estimation", {}),
    ("automatic-speech-recognition", "automatic-speech-recognition", {}),
    pytest.param("speech-to-text", "automatic-speech-recognition", {}, marks=pytest.mark.slow),
    ("speech-to-text", "automatic-speech-recognition", {"language": "fr", "task": "translate"}),
    pytest.param("speech-to-text", "automatic-speech-recognition", {"return_timestamps": True}, marks=pytest.mark.slow),
    ("audio-classification", "audio-classification", {}),
    *(("token-classification", "token-classification", {"aggregation_strategy": each}) for each in AGGREGATIONS),
    *(("mask-segmentation", "image-segmentation", {"subtask": each, "threshold": 0.0}) for each in SUBTASKS),
]


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
    if isinstance(one, str) and one.startswith("iVBOR") and isinstance(other, str):  # PNG in base64
        return bool((np.abs(pixels(one) - pixels(other)) <= 1).all())
    return bool(one == other)


def pixels(encoded: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), np.int64)


@cache
def folder(task: str, place: Path) -> Path:
    return tiny.made(task, place / task)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


def serving(name: str, place: Path, listening: Serve) -> int:
    given = {"task": name} if name == "zero-shot-classification" else {}
    predictor = load_model(Settings.load(folder(name, place), device="cpu", log_requests=False, **given))
    predictor.warm_up()
    return int(listening(Application(Models.of_one(Service.of(predictor)), (), None, Decoder(), hooked=False)).port)


@pytest.mark.parametrize(("name", "task", "given"), PIPED)
def test_answers_are_those_of_the_pipeline(
    name: str, task: str, given: dict[str, Any], place: Path, listening: Serve
) -> None:
    from transformers import pipeline

    port = serving(name, place, listening)
    theirs = pipeline(task, model=str(folder(name, place)), device="cpu")
    whole = theirs_names(task, given)
    wanted = [jsonable(theirs(copy.copy(item), **whole)) for item in items(task)]

    def alone(item: Any) -> Any:
        return asked(port, json.dumps({"inputs": sent(item), "parameters": given}).encode())

    assert equal(alone(items(task)[0]), wanted[0])
    with ThreadPoolExecutor(16) as threads:
        for found, expected in zip(threads.map(alone, items(task)), wanted, strict=True):
            assert equal(found, expected), (found, expected)
    listed = json.dumps({"inputs": [sent(item) for item in items(task)], "parameters": given}).encode()
    assert equal(asked(port, listed), jsonable(theirs(items(task), **whole)))


def theirs_names(task: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request as the pipeline takes them."""
    said = {name: given[name] for name in ("language", "task") if name in given}
    if task != "automatic-speech-recognition" or not said:
        return given
    return {name: value for name, value in given.items() if name not in said} | {"generate_kwargs": said}


@pytest.mark.parametrize(
    ("name", "languages", "key"),
    [
        ("translation", {"src_lang": "en", "tgt_lang": "fr"}, "translation_text"),
        ("translation", {"src_lang": "de", "tgt_lang": "zh"}, "translation_text"),
        ("one-translation", {}, "translation_text"),
        ("text2text-generation", {}, "generated_text"),
    ],
)
def test_texts_are_generated_as_the_model_by_itself_does(
    name: str, languages: dict[str, str], key: str, place: Path, listening: Serve
) -> None:
    import transformers

    port = serving(name, place, listening)
    words = transformers.AutoTokenizer.from_pretrained(folder(name, place))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder(name, place)).eval()
    start = {}
    if languages:
        words.src_lang = languages["src_lang"]
        start = {"forced_bos_token_id": words.get_lang_id(languages["tgt_lang"])}

    def theirs(text: str) -> list[dict[str, str]]:
        tokens = words(text, return_tensors="pt")
        tokens.pop("token_type_ids", None)
        made = model.generate(**tokens, **start, max_new_tokens=6, num_beams=2)
        return [{key: words.decode(made[0], skip_special_tokens=True)}]

    wanted = [theirs(text) for text in SENTENCES]
    given = {**languages, "max_new_tokens": 6, "num_beams": 2}
    with ThreadPoolExecutor(16) as threads:
        bodies = [json.dumps({"inputs": text, "parameters": given}).encode() for text in SENTENCES]
        assert list(threads.map(lambda body: asked(port, body), bodies)) == wanted
    assert asked(port, json.dumps({"inputs": SENTENCES, "parameters": given}).encode()) == wanted
    assert len({str(each) for each in wanted}) > 1


def test_pictures_are_described_as_the_model_by_itself_does(place: Path, listening: Serve) -> None:
    import transformers

    port = serving("image-to-text", place, listening)
    where = folder("image-to-text", place)
    words, sees = (
        transformers.AutoTokenizer.from_pretrained(where),
        transformers.AutoImageProcessor.from_pretrained(where),
    )
    model = transformers.VisionEncoderDecoderModel.from_pretrained(where).eval()
    wanted = []
    for at in range(16):
        made = model.generate(**sees(images=picture(at), return_tensors="pt"), num_beams=2)
        wanted.append([{"generated_text": words.decode(made[0], skip_special_tokens=True)}])
    with ThreadPoolExecutor(16) as threads:
        bodies = [
            json.dumps({"inputs": sent(picture(at)), "parameters": {"num_beams": 2}}).encode() for at in range(16)
        ]
        assert list(threads.map(lambda body: asked(port, body), bodies)) == wanted
    made = model.generate(**sees(images=picture(3), return_tensors="pt"))
    greedy = [{"generated_text": words.decode(made[0], skip_special_tokens=True)}]
    assert asked(port, png(picture(3)), "image/png") == greedy


OURS: dict[str, Callable[[int], Any]] = {
    "question-answering": lambda at: {
        "question": f"who {SENTENCES[at]}?", "context": f"Anna lives in Paris. {SENTENCES[at]}. {SENTENCES[-at]}."
    },
    "text-ranking": lambda at: {
        "query": SENTENCES[at], "texts": [SENTENCES[(at + more) % 16] for more in range(1 + at % 4)]
    },
    "sentence-embeddings": lambda at: SENTENCES[at],
}  # fmt: skip


@pytest.mark.parametrize("task", OURS)
def test_tasks_of_our_own_answer_the_same_alone_and_among_others(task: str, place: Path, listening: Serve) -> None:
    """What each answers alone is held against its source elsewhere; here, 16 different ones at once, and as a list."""
    makers = {"text-ranking": tiny.ranking, "sentence-embeddings": tiny.sentences}
    where = makers.get(task, lambda folder: tiny.made(task, folder))(place / f"own-{task}")
    predictor = load_model(Settings.load(where, device="cpu", log_requests=False))
    predictor.warm_up()
    assert predictor.runner is not None
    assert predictor.runner.task == task
    port = int(listening(Application(Models.of_one(Service.of(predictor)), (), None, Decoder(), hooked=False)).port)
    bodies = [json.dumps({"inputs": OURS[task](at)}).encode() for at in range(16)]
    alone = [asked(port, body) for body in bodies]
    with ThreadPoolExecutor(16) as threads:
        assert equal(list(threads.map(lambda body: asked(port, body), bodies)), alone)
    listed = asked(port, json.dumps({"inputs": [OURS[task](at) for at in range(16)]}).encode())
    assert equal(listed, alone)
    assert len({str(each) for each in alone}) > 4


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
