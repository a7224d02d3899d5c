"""Images become what the folder's own processor makes of them, for every class of processor that can be built here."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from score.codecs import image
from score.codecs.base import Body
from score.inference import pipeline
from score.inference.preprocess.task import _is_of_images, _json
from score.settings import Settings
from tests.architectures.transformers_models import built

transformers = pytest.importorskip("transformers")
PIL = pytest.importorskip("PIL.Image")

from score.inference.preprocess.images import Processor, from_preprocessor  # noqa: E402


def picture(high: int = 61, wide: int = 83) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (high, wide, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    PIL.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


_CONFIGURATIONS = {
    "convnext": ("ConvNextConfig", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_labels": 3}),
    "swin": (
        "SwinConfig",
        {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "window_size": 4},
    ),
}


@pytest.mark.parametrize("model_type", ["vit", "convnext", "resnet", "deit", "swin", "mobilevit"])
def test_a_classifiers_answer_is_that_of_transformers(model_type: str, tmp_path: Path) -> None:
    import torch
    from transformers.models.auto import image_processing_auto, modeling_auto

    given = _CONFIGURATIONS.get(model_type)
    names = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    name = names if isinstance(names, str) else names[0]
    config = built(name).config if given is None else getattr(transformers, given[0])(**given[1])
    cls = getattr(transformers, name)
    names = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[model_type]
    torch.manual_seed(1)
    model = cls(config).eval()
    side = getattr(config, "image_size", 64)
    processor = getattr(transformers, names["pil"])(size={"height": side, "width": side})
    if "crop_pct" in processor.to_dict():  # what a plain recipe would not do
        processor = getattr(transformers, names["pil"])(size={"shortest_edge": side}, crop_pct=0.9, resample=3)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(**again(PIL.fromarray(picture()), return_tensors="pt")).logits.numpy()
    served = pipeline.load_model(Settings.load(tmp_path, device="cpu"))
    answer = served.predict(served.preprocess(image.decode(Body(png(picture()), "image/png"))))
    logits = answer["logits"] if isinstance(answer, dict) else answer
    np.testing.assert_allclose(logits, wanted, atol=1e-5)


@pytest.mark.slow
def test_every_image_processor_that_can_be_built(tmp_path: Path) -> None:
    from transformers.models.auto import image_processing_auto

    compared, skipped = 0, {}
    for model_type, names in image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.items():
        folder = tmp_path / model_type
        try:
            getattr(transformers, names.get("pil") or names["torchvision"])().save_pretrained(folder)
            wanted = transformers.AutoImageProcessor.from_pretrained(folder)(
                PIL.fromarray(picture()), return_tensors="np"
            )
        except Exception as error:  # noqa: BLE001  # it needs torchvision, tesseract, or more than an image
            skipped[model_type] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:60]}"
            continue
        assert _is_of_images(_json(folder / "preprocessor_config.json")), model_type
        found = Processor(folder).apply(picture())
        for name, value in dict(wanted).items() if not isinstance(wanted, np.ndarray) else ():
            if np.asarray(value).dtype.kind in "biuf":
                np.testing.assert_allclose(found[name], np.asarray(value), atol=1e-5, err_msg=f"{model_type} {name}")
        compared += 1
    print(f"{compared} processors compared, {len(skipped)} skipped: {skipped}")
    assert compared >= 100


@pytest.mark.parametrize(
    "more",
    [{"crop_pct": 0.9}, {"do_pad": True}, {"image_processor_type": "ConvNextImageProcessor"}, {"size_divisor": 32}],
)
def test_without_transformers_a_step_that_is_not_known_is_no_recipe(more: dict[str, object]) -> None:
    plain = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 8, "width": 8}}
    assert from_preprocessor(json.loads(json.dumps(plain))) is not None
    assert from_preprocessor(plain | more) is None
