"""The class that a `config.json` names: of transformers, of sentence-transformers around one of these, or of timm."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from score.architectures import timm_config
from score.architectures.published import whisper
from score.errors import ArchitectureBroken
from score.formats import hf_dir
from score.formats._pickle.inert import settled
from score.formats.base import Checkpoint, DescribedWeights, HfConfig, ModelFactory, TensorRef


def factory_of(checkpoint: Checkpoint) -> ModelFactory | None:
    """The class that a checkpoint brings along, or that its configuration names; None where it does neither."""
    if not isinstance(checkpoint, DescribedWeights):
        return whisper.factory_of(checkpoint)
    return _named_by(checkpoint.model) if isinstance(checkpoint.model, HfConfig) else checkpoint.model


def _named_by(found: HfConfig) -> ModelFactory | None:
    """The class that the configuration names, if transformers is here and has it. Its own code is never run."""
    folder, config = found.folder, found.values
    if isinstance(config.get("architecture"), str) and "architectures" not in config:
        return timm_config.factory(config)
    if isinstance(config.get("_class_name"), str) and "architectures" not in config:
        return _of_diffusers(config)
    names = config.get("architectures")
    name = found.named or (names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None)
    if name is None or not name.isidentifier() or importlib.util.find_spec("transformers") is None:
        return None
    name = _of_task(found.task, config.get("model_type")) or name
    if (reference := _own_code(config, name)) and _of_transformers(name) is None:
        return _remote_code(folder, reference)

    def build() -> torch.nn.Module:
        import transformers

        from score.architectures.sentence_encoder import SentenceEncoder, Unknown, modules

        if (cls := _of_transformers(name)) is None:
            raise ArchitectureBroken(
                f"transformers {transformers.__version__} has no class {name}",
                hint="Install the version of transformers that the model was saved with, or set SCORE_ARCHITECTURE.",
            )
        module: torch.nn.Module = cls(
            cls.config_class.from_pretrained(str(folder), local_files_only=True, **found.overrides)
        )
        _set_generation(module, folder)
        try:
            behind = modules(folder, _tensors)
        except Unknown as error:
            raise ArchitectureBroken(
                f"{folder.name} is of sentence-transformers: {error}",
                hint="Serve it with the version of sentence-transformers that wrote it, or export it to ONNX.",
            ) from None
        return module if behind is None else SentenceEncoder(module, *behind)

    return ModelFactory(f"transformers.{name}", build)


def _of_transformers(name: str) -> Any:
    """The class of that name, to be made with a configuration; None where transformers has none. It is looked up when
    it is wanted: that imports torch, and much of transformers."""
    import transformers

    found = getattr(transformers, name, None)
    return found if hasattr(found, "config_class") else None


# What PEFT calls a task, and where transformers has the classes for it, by the kind of model.
_TASKS = {
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}


def _of_task(task: str, kind: Any) -> str | None:
    """The class of transformers for an adapter's task; None where the adapter names none, or the class is the same."""
    if task not in _TASKS or not isinstance(kind, str):
        return None
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, _TASKS[task], {}).get(kind)
    return found[0] if isinstance(found, tuple) else found


def _of_diffusers(config: Mapping[str, Any]) -> ModelFactory | None:
    """A model of diffusers, which its configuration names: a part of a pipeline."""
    name = config["_class_name"]
    if not name.isidentifier():
        return None

    def build() -> torch.nn.Module:
        if importlib.util.find_spec("diffusers") is None:
            raise ArchitectureBroken(
                f"{name} is a model of diffusers, which is not installed", hint="Install it: pip install diffusers."
            )
        import diffusers

        cls = getattr(diffusers, name, None)
        if not isinstance(cls, type) or not issubclass(cls, diffusers.ModelMixin):
            raise ArchitectureBroken(f"diffusers {diffusers.__version__} has no model {name}")
        made: torch.nn.Module = cls.from_config(dict(config))  # type: ignore[attr-defined]  # by way of its ConfigMixin
        return made

    return ModelFactory(f"diffusers.{name}", build)


def _own_code(config: Mapping[str, Any], name: str) -> str | None:
    """Where `auto_map` says that a class is: `modeling_own.Own`, a file in the folder; before it, with `--`, the
    repository that has the file."""
    said = config.get("auto_map")
    listed = list(said.values()) if isinstance(said, dict) else []
    flat = [item for value in listed for item in (value if isinstance(value, list) else [value])]
    return next((item for item in flat if isinstance(item, str) and item.rpartition(".")[2] == name), None)


def _remote_code(folder: Path, reference: str) -> ModelFactory:
    """A class that a folder brings along ("remote code"), run only where the folder is trusted; nothing is fetched."""
    repository, _, local = reference.rpartition("--")
    module, _, name = local.rpartition(".")
    file = folder / f"{module}.py"
    if repository or not module.isidentifier() or not file.is_file():
        raise ArchitectureBroken(
            f"{folder.name}: config.json says that {name} is remote code, in {local.rpartition('.')[0]}.py"
            + (f" of the repository {repository}" if repository else "")
            + ", which is not in the folder",
            hint="Put the model's .py files into the folder: nothing is fetched.",
        )

    def build() -> torch.nn.Module:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        cls: Any = get_class_from_dynamic_module(local, str(folder), local_files_only=True)
        module: torch.nn.Module = cls(cls.config_class.from_pretrained(str(folder), local_files_only=True))
        return module

    return ModelFactory(local, build, code=tuple(sorted(each.name for each in folder.glob("*.py"))))


def _set_generation(module: torch.nn.Module, folder: Path) -> None:
    """How the model generates where a request does not say, as generation_config.json has it."""
    import transformers

    if not (folder / "generation_config.json").is_file() or not getattr(module, "can_generate", bool)():
        return
    try:
        found = transformers.GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # noqa: BLE001  # transformers raises anything
        raise ArchitectureBroken(
            f"{folder.name}: generation_config.json can't be used ({type(error).__name__}: {str(error)[:300]})",
            hint="Correct it, or remove it to generate with transformers' defaults.",
        ) from None
    module.generation_config = found  # type: ignore[assignment]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's one file of weights."""
    from score.architectures.sentence_encoder import Unknown

    found = hf_dir.weights_in(folder)
    if found is None:
        raise Unknown(f"{folder.name} holds no weights")
    tree = hf_dir.open_weights(folder, found, "read").tree
    refs = {name: settled(value) for name, value in tree.items()} if isinstance(tree, dict) else {}
    return {name: ref.load() for name, ref in refs.items() if isinstance(ref, TensorRef)}
