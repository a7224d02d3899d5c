"""Where each torch-bearing flavor of MLflow keeps its model, and what belongs to it.

Sources: mlflow/pytorch, mlflow/transformers and mlflow/sentence_transformers, `save_model`; for the hftransformers of
Azure's catalog, azureml-acft-contrib-hf's folders `data/model`, `data/config` and `data/tokenizer`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score.errors import NoCheckpoint, UnsupportedFormat
from score.formats._io.folder import contained, within
from score.formats.base import NOTHING_BESIDE, Beside


@dataclass(frozen=True)
class Place:
    """The inner checkpoint of a flavor; `config` is the folder of its config.json, where that is not its own."""

    checkpoint: Path
    beside: Beside = NOTHING_BESIDE
    config: Path | None = None


def _pytorch(folder: Path, flavor: Mapping[str, Any]) -> Place:
    """`data/model.pth` below the flavor's model_data; older versions wrote other names."""
    data = contained(folder, flavor.get("model_data", "data"))
    for name in ("model.pth", "model.pt2", "state_dict.pth"):
        if (data / name).is_file():
            return Place(within(data, name))
    raise NoCheckpoint(f"{folder.name}: MLmodel says the model is in {data.name}/, and there is no model.pth")


def _transformers(folder: Path, flavor: Mapping[str, Any]) -> Place:
    """`model/` and `components/`; older versions wrote `pipeline/` with both."""
    if str(flavor.get("framework", "pt")) != "pt":
        raise UnsupportedFormat(f"{folder.name} is a transformers model of {flavor['framework']}, not of PyTorch")
    said = (flavor.get("model_binary"), flavor.get("pipeline"), "model", "pipeline")
    model = _first(folder, [name for name in said if isinstance(name, str)])
    components = contained(folder, "components")
    processor = next(
        (
            components / name
            for name in ("image_processor", "feature_extractor", "processor")
            if (components / name).is_dir()
        ),
        None,
    )
    return Place(model, Beside(_folder(components / "tokenizer"), processor, _text(flavor.get("task"))))


def _hftransformers(folder: Path, flavor: Mapping[str, Any]) -> Place:
    """`data/model`, with `config` and `tokenizer` beside it."""
    data = contained(folder, flavor.get("model_data", "data"))
    if not (data / "model").is_dir():
        raise NoCheckpoint(f"{folder.name}: MLmodel says the model is in {data.name}/model, and there is none")
    config = None if (data / "model" / "config.json").is_file() else data / "config"
    tokenizer = _folder(data / "tokenizer")
    return Place(data / "model", Beside(tokenizer, tokenizer, _text(flavor.get("task_type"))), config)


def _sentence_transformers(folder: Path, flavor: Mapping[str, Any]) -> Place:
    named = (flavor.get("model_binary"), flavor.get("data"), "model.sentence_transformer")
    return Place(_first(folder, [name for name in named if isinstance(name, str)]), Beside(task="sentence-embeddings"))


def _pyfunc(folder: Path, flavor: Mapping[str, Any]) -> Place:
    """The only artifact of a Python model that can be a checkpoint: a file, or a folder with a config.json, whose files
    may be listed one by one. The Python model itself is not run."""
    listed = flavor.get("artifacts")
    named = [each.get("path") for each in listed.values() if isinstance(each, dict)] if isinstance(listed, dict) else []
    places = [contained(folder, name) for name in named]
    if isinstance(data := flavor.get("data"), str) and _is_archive(contained(folder, data)):
        places.append(contained(folder, data))
    folders = [place if place.is_dir() else place.parent for place in places]
    described = dict.fromkeys(each for each in folders if (each / "config.json").is_file())
    fit = list(described) or [place for place in places if place.suffix in _WEIGHTS or _is_archive(place)]
    if len(fit) == 1:
        return Place(fit[0])
    found = f"{len(fit)} artifacts that could be its weights" if fit else "no artifact that is a checkpoint"
    raise UnsupportedFormat(
        f"{folder.name} is a Python model of MLflow ({flavor.get('loader_module', 'mlflow.pyfunc')}) with {found}",
        hint="Log what is inside of it with mlflow.pytorch or mlflow.transformers, or deploy it with MLflow's server.",
    )


def _is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, as torch.save writes it under whatever name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


_WEIGHTS = frozenset((".pt", ".pth", ".pt2", ".bin", ".ckpt", ".safetensors", ".onnx"))
FLAVORS: Mapping[str, Callable[[Path, Mapping[str, Any]], Place]] = {
    "pytorch": _pytorch,
    "transformers": _transformers,
    "hftransformersv2": _hftransformers,
    "hftransformers": _hftransformers,
    "sentence_transformers": _sentence_transformers,
    "python_function": _pyfunc,  # beside each of the others, too
}


def _first(folder: Path, names: list[str]) -> Path:
    for name in names:
        if (found := contained(folder, name)).is_dir():
            return found
    raise NoCheckpoint(f"{folder.name}: MLmodel says the model is in {names[0]}, and there is no such folder")


def _folder(path: Path) -> Path | None:
    return path if path.is_dir() and not path.is_symlink() else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
