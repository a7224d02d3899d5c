"""From an image to what a model takes: resize, crop, scale, normalise, as its training did it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score.errors import InvalidImage

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


@dataclass(frozen=True)
class Recipe:
    """How an image becomes float32[1, C, H, W], C being the length of `mean`: one for grey, three for RGB.

    `resize` is the shorter side, or height and width; `crop` is taken from the middle; None leaves the step out. With
    height and width, `keep` says that proportions are kept: `cover` makes both sides at least as large, `contain` at
    most, and what the crop then lacks is filled with `mean`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    scale: float = 1 / 255
    interpolation: str = "bilinear"
    keep: str = ""

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or not all(self.std):
            raise ValueError("mean and std have one number each, or three, and std is not 0")
        if self.interpolation not in _RESAMPLING.values():
            raise ValueError(f"interpolation is one of {', '.join(_RESAMPLING.values())}")
        if self.keep not in ("", "cover", "contain"):
            raise ValueError("keep is cover or contain")

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """uint8[H, W, 3] to float32[1, C, H, W]."""
        from PIL import Image

        image = Image.fromarray(pixels).convert("L" if len(self.mean) == 1 else "RGB")
        if self.resize is not None:
            high, wide = _pair(self.resize, image.height, image.width, self.keep)
            image = image.resize((wide, high), Image.Resampling[self.interpolation.upper()])
        if self.crop is not None:
            high, wide = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
            if self.keep == "contain":
                image = self._framed(image, max(high, image.height), max(wide, image.width))
            left, top = round((image.width - wide) / 2), round((image.height - high) / 2)
            image = image.crop((left, top, left + wide, top + high))
        values = np.asarray(image, np.float32).reshape(image.height, image.width, len(self.mean)) * self.scale
        normalised = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], np.float32)

    def _framed(self, image: Any, high: int, wide: int) -> Any:
        """A picture in the middle of one of its mean colour."""
        from PIL import Image

        fill = tuple(round(255 * value) for value in self.mean)
        frame = Image.new(image.mode, (wide, high), fill if len(fill) > 1 else fill[0])
        frame.paste(image, ((wide - image.width) // 2, (high - image.height) // 2))
        return frame

    def __str__(self) -> str:
        steps = [f"resize to {self.resize}" if self.resize else "", f"crop {self.crop}" if self.crop else ""]
        steps += [f"scale by {self.scale:.6g}", f"mean {list(self.mean)}", f"std {list(self.std)}"]
        return ", ".join(filter(None, steps))


def refuse_large(pixels: np.ndarray, most: int) -> None:
    """Raise `InvalidImage` for a picture [H, W, 3] of more pixels than are allowed."""
    high, wide = pixels.shape[:2]
    if high * wide > most:
        raise InvalidImage(
            f"the picture has {wide} x {high} pixels, and SCORE_MAX_IMAGE_PIXELS allows {most:,}",
            hint="Send a smaller one, or raise SCORE_MAX_IMAGE_PIXELS.",
        )


class Processor:
    """The image processor that lies in a model's folder, as transformers has it; none of the folder's own code runs.

    What it makes is what its model was trained on, whatever its class does: resize, crop, pad, tile.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor

        self._processor = AutoImageProcessor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )

    def apply(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """uint8[H, W, 3] to what the model takes, by name."""
        from PIL import Image

        found = self._processor(Image.fromarray(pixels), return_tensors="np")
        if isinstance(found, np.ndarray):  # a few give the one array as it is
            return {self._processor.model_input_names[0]: found}
        return {name: np.asarray(value) for name, value in found.items()}

    def __str__(self) -> str:
        return type(self._processor).__name__


RECIPES = {
    # Of detectors that scale pictures themselves.
    "pixels": Recipe((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    # Of torchvision's classifiers, and of nearly all that were trained on ImageNet.
    "imagenet": Recipe((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, crop=224),
}


def from_setting(value: str | Mapping[str, Any]) -> Recipe:
    """A recipe by name, or by its fields. Raises `ValueError` or `TypeError`."""
    if isinstance(value, str):
        if value not in RECIPES:
            raise ValueError(
                f"there is no recipe {value!r}; there is {', '.join(RECIPES)}, or an object with its fields"
            )
        return RECIPES[value]
    fields: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return Recipe(**fields)


# What a `preprocessor_config.json` may say for its steps to be the plain ones that a `Recipe` has.
_PLAIN_TYPES = frozenset(
    f"{name}{suffix}"
    for name in ("ViT", "DeiT", "CLIP", "Beit")
    for suffix in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
)
_PLAIN_KEYS = frozenset(
    (
        *("image_mean", "image_std", "do_normalize", "do_resize", "size", "do_center_crop", "crop_size", "do_rescale"),
        *("rescale_factor", "resample", "image_processor_type", "feature_extractor_type", "do_convert_rgb"),
        *("processor_class", "data_format", "input_data_format", "return_tensors", "device", "model_input_names"),
    )
)


def from_preprocessor(config: Mapping[str, Any]) -> Recipe | None:
    """transformers' `preprocessor_config.json`, where transformers is not here to read it; None where that is not of
    images, or says more than the plain steps: another would be a guess."""
    mean, std = config.get("image_mean"), config.get("image_std")
    if not isinstance(mean, list) or not isinstance(std, list):
        return None
    kind = config.get("image_processor_type", config.get("feature_extractor_type", "ViTImageProcessor"))
    said = {key for key, value in config.items() if value not in (None, False) and not key.startswith("_")}
    if kind not in _PLAIN_TYPES or not said <= _PLAIN_KEYS:
        return None
    plain = not config.get("do_normalize", True)
    return Recipe(
        tuple(0.0 for _ in mean) if plain else tuple(mean),
        tuple(1.0 for _ in std) if plain else tuple(std),
        resize=_size(config.get("size")) if config.get("do_resize", True) else None,
        crop=_size(config.get("crop_size")) if config.get("do_center_crop", "crop_size" in config) else None,
        scale=config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
        interpolation=_RESAMPLING.get(config.get("resample", 2), "bilinear"),
    )


def from_timm(config: Mapping[str, Any]) -> Recipe:
    """timm's `pretrained_cfg`: the crop is the input's size, and the resize that divided by `crop_pct`.

    Source: timm/data/transforms_factory.py, `transforms_imagenet_eval`.
    """
    high, wide = (config.get("input_size") or (3, 224, 224))[-2:]
    share, mode = config.get("crop_pct") or 0.875, config.get("crop_mode") or "center"
    if mode not in ("center", "squash", "border"):
        raise ValueError(f"crop_mode is {mode!r}, and there is center, squash and border")
    resize = (int(high / share), int(wide / share))
    plain = mode == "center" and high == wide
    imagenet = RECIPES["imagenet"]
    return Recipe(
        tuple(config.get("mean") or imagenet.mean), tuple(config.get("std") or imagenet.std),
        resize[0] if plain else resize, (high, wide), interpolation=config.get("interpolation") or "bicubic",
        keep="" if plain or mode == "squash" else "cover" if mode == "center" else "contain",
    )  # fmt: skip


def _size(value: Any) -> int | tuple[int, int] | None:
    if isinstance(value, Mapping):
        if "shortest_edge" in value:
            return int(value["shortest_edge"])
        return (int(value["height"]), int(value["width"])) if "height" in value else None
    return int(value) if isinstance(value, int) else None


def _pair(size: int | tuple[int, int], high: int, wide: int, keep: str) -> tuple[int, int]:
    """Height and width; a number stands for the shorter side, and the other keeps the proportions."""
    if not isinstance(size, int):
        if not keep:
            return size
        ratio = (min if keep == "cover" else max)(high / size[0], wide / size[1])
        return max(1, round(high / ratio)), max(1, round(wide / ratio))
    return (size, max(1, int(size * wide / high))) if high <= wide else (max(1, int(size * high / wide)), size)
