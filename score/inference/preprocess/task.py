"""What surrounds a model: labels for its classes, how images and texts become its inputs. Each is off unless known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from loadstone_models import Registered
from torch import nn

from score.architectures import timm_config
from score.architectures.recognition import registered_models
from score.codecs import image
from score.codecs.base import Decoded, Items, refuse_unknown
from score.errors import InvalidSetting, NotNumeric, TopKUnavailable, UnsupportedMediaType
from score.inference.infer_signature import input_names
from score.inference.preprocess import files, images, texts
from score.inference.preprocess import labels as class_labels
from score.settings import Settings

MOST_TEXT = 1_000_000  # bytes of a labels or configuration file


@dataclass(frozen=True)
class Task:
    """`labels` by class, the `recipe` for images, the `tokenizer` for texts, the value of a `white` pixel in those that
    are given as numbers; and where each was found."""

    labels: tuple[str, ...] = ()
    recipe: images.Recipe | images.Processor | None = None
    tokenizer: texts.Tokenizer | None = None
    white: float | None = None
    problem: str = ""  # transformers' `problem_type`
    inputs: tuple[str, ...] = ()  # of the model
    sources: Mapping[str, str] = field(default_factory=dict)
    most_pixels: int = 33_000_000
    most_characters: int = 1_000_000

    def prepared(self, decoded: Decoded) -> np.ndarray | Mapping[str, np.ndarray]:
        """What the model takes, from numbers, an image or texts."""
        if decoded.items is not None and self.tokenizer is None and self.recipe is not None:
            return self._pictures(decoded.items)
        arrays = decoded.arrays if decoded.items is None else _texts(decoded)
        if decoded.dialect == image.NAME:
            assert isinstance(arrays, np.ndarray)
            if self.recipe is None:
                raise UnsupportedMediaType(
                    "nothing says how an image is to be resized and normalised for this model",
                    hint="Send numbers, or set SCORE_IMAGE to a recipe: `imagenet`, or a JSON object.",
                )
            images.refuse_large(arrays, self.most_pixels)
            pixels: np.ndarray | dict[str, np.ndarray] = self.recipe.apply(arrays)
            return self._of_model(pixels) if isinstance(pixels, dict) else pixels
        if isinstance(arrays, np.ndarray) and arrays.dtype.kind == "U":
            if self.tokenizer is None:
                raise NotNumeric(f"{decoded.dialect}[0] is a string where a number belongs")
            for text in arrays.tolist():
                texts.refuse_long(text, self.most_characters)
            tokens: dict[str, np.ndarray] = self.tokenizer(arrays.tolist())
            return tokens
        return arrays

    def _pictures(self, items: Items) -> np.ndarray | Mapping[str, np.ndarray]:
        """Pictures in base64 as rows. Raises `InvalidItem`, `InvalidImage` or `UnknownParameter`."""
        refuse_unknown(items.parameters)
        made = [self.prepared(image.decode(files.of_item(item, "a picture"))) for item in items.values]
        if isinstance(made[0], Mapping):
            return {name: np.concatenate([each[name] for each in made]) for name in made[0]}
        return np.concatenate(made)  # type: ignore[arg-type]

    def _of_model(self, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What a processor makes, as far as the model takes it."""
        return {name: value for name, value in made.items() if name in self.inputs} or made

    def top(self, outputs: Any, most: int) -> list[list[dict[str, Any]]]:
        """The `most` likely classes of each row. Raises `TopKUnavailable` where the outputs are no classes."""
        if self.problem == "regression":
            raise TopKUnavailable("the model gives numbers, not classes (problem_type is regression)")
        found = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f":
            shape = f"shape {list(found.shape)}" if isinstance(found, np.ndarray) else "several outputs"
            raise TopKUnavailable(f"top_k needs one row of numbers a class, and the model gives {shape}")
        if found.shape[1] == 1 and self.problem != "multi_label_classification":
            raise TopKUnavailable("the model gives one number a row, which is no choice between classes")
        if self.labels and len(self.labels) != found.shape[1]:
            raise TopKUnavailable(f"there are {len(self.labels)} labels for {found.shape[1]} classes")
        top: list[list[dict[str, Any]]] = class_labels.top(
            found,
            self.labels or [str(at) for at in range(found.shape[1])],
            most,
            several=self.problem == "multi_label_classification",
        )
        return top

    def card(self) -> dict[str, Any]:
        """As the model card shows it."""
        return {
            "labels": list(self.labels) or None,
            "images": str(self.recipe) if self.recipe else None,
            "white": self.white,
            "texts": self.tokenizer.names if self.tokenizer else None,
            "sources": dict(self.sources),
        }

    def takes(self) -> dict[str, str] | None:
        """The inputs of a model that a tokenizer belongs to."""
        return dict.fromkeys(self.tokenizer.names, "int64[N, ?]") if self.tokenizer else None


def _texts(decoded: Decoded) -> np.ndarray:
    """The items of a request as texts. Raises `NotNumeric` or `UnknownParameter`."""
    assert decoded.items is not None
    refuse_unknown(decoded.items.parameters)
    if not all(isinstance(item, str) for item in decoded.items.values):
        raise NotNumeric(f"{decoded.dialect} has objects or lists with texts in them where numbers belong")
    return np.asarray(decoded.items.values, dtype=np.str_)


def find(settings: Settings, folder: Path, architecture: str, module: nn.Module, words: Path | None = None) -> Task:
    """What is known about a model's task, from the settings and the files in its folder; `words` is the tokenizer's."""
    words = words or folder
    folders = [folder, *([settings.model_dir] if settings.model_dir and settings.model_dir.is_dir() else [])]
    registered = registered_models().get(architecture)
    sources: dict[str, str] = {}
    labels = _labels_of(settings, folders, sources)
    if not labels and registered is not None and registered.labels:
        labels, sources["labels"] = registered.labels, "registered"
    if not labels and (of_file := getattr(module, "labels", None)) and isinstance(of_file, tuple):
        labels, sources["labels"] = of_file, "the checkpoint"
    recipe = _recipe_of(settings, folder, architecture, registered, module, sources)
    tokenizer = None
    if architecture.startswith("transformers") and texts.is_there(words):
        tokenizer, sources["texts"] = texts.Tokenizer(words, input_names(module)), "the model's folder"
    problem = _json(folder / "config.json").get("problem_type")
    return Task(
        labels, recipe, tokenizer, registered.white if registered else None,
        problem if isinstance(problem, str) else "", tuple(input_names(module)), sources,
        settings.max_image_pixels, settings.max_text_characters,
    )  # fmt: skip


def _labels_of(settings: Settings, folders: Sequence[Path], sources: dict[str, str]) -> tuple[str, ...]:
    if settings.labels:
        sources["labels"] = "SCORE_LABELS"
        return tuple(settings.labels)
    for folder in folders:
        if text := _read(folder / "labels.txt"):
            sources["labels"] = "labels.txt"
            return tuple(line.strip() for line in text.splitlines() if line.strip())
    for folder in folders:
        config = _json(folder / "config.json")
        named = config.get("id2label")
        if isinstance(named, dict) and list(named) == [str(at) for at in range(len(named))]:
            sources["labels"] = "config.json"
            return tuple(map(str, named.values()))
        if isinstance(config.get("architecture"), str) and (names := timm_config.label_names(config)):
            sources["labels"] = "config.json"
            return names
    return ()


def _recipe_of(
    settings: Settings,
    folder: Path,
    architecture: str,
    registered: Registered | None,
    module: nn.Module,
    sources: dict[str, str],
) -> images.Recipe | images.Processor | None:
    if settings.image:
        sources["images"] = "SCORE_IMAGE"
        try:
            return images.from_setting(settings.image)
        except (TypeError, ValueError) as error:
            raise InvalidSetting(f"SCORE_IMAGE={settings.image!r}: {error}") from None
    if config := _json(folder / "preprocessor_config.json"):
        if architecture.startswith("transformers") and _is_of_images(config):
            sources["images"] = "preprocessor_config.json, by transformers"
            return _processor(folder)
        try:
            recipe = images.from_preprocessor(config)
        except (TypeError, ValueError) as error:
            raise InvalidSetting(f"preprocessor_config.json: {error}", hint="Set SCORE_IMAGE instead.") from None
        if recipe:
            sources["images"] = "preprocessor_config.json"
            return recipe
    if (own := getattr(module, "recipe_of_images", None)) in images.RECIPES:
        sources["images"] = architecture
        return images.RECIPES[own]
    if registered and registered.recipe and getattr(module, "takes", "").startswith("float32[N, 3,"):
        sources["images"] = f"the well-known recipe of {architecture}"
        return images.RECIPES[registered.recipe]
    if architecture.startswith("timm") and getattr(module, "pretrained_cfg", None):
        sources["images"] = "timm"
        try:
            return images.from_timm(module.pretrained_cfg)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise InvalidSetting(f"timm's configuration: {error}", hint="Set SCORE_IMAGE instead.") from None
    return None


def _is_of_images(config: Mapping[str, Any]) -> bool:
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    return "image_mean" in config or "ImageProcessor" in kind


def _processor(folder: Path) -> images.Processor:
    try:
        return images.Processor(folder)
    except Exception as error:  # noqa: BLE001  # transformers raises anything; so do the numbers in a file
        raise InvalidSetting(
            f"preprocessor_config.json: transformers can't make an image processor of it "
            f"({type(error).__name__}: {str(error)[:300]})",
            hint="Install what it names, or set SCORE_IMAGE instead.",
        ) from None


def _read(path: Path) -> str:
    if not path.is_file() or path.is_symlink() or path.stat().st_size > MOST_TEXT:
        return ""
    return path.read_text(errors="replace")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
