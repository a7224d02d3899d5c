"""The base model of an adapter: named by SCORE_BASE, or by the adapter, or the only other one in the model folder."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from score.errors import LoadError, NoCheckpoint, NoWeights, SeveralCheckpoints
from score.formats import registry
from score.formats._io.source import resolved
from score.formats.base import Adapter, Beside, Checkpoint, DescribedWeights, HfConfig
from score.formats.search import checkpoints_in, tree
from score.weights import checksums, select

# Names of a classifier's last layer: as many rows as there are labels.
_HEADS = ("classifier.weight", "score.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "shared.weight")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def find(path: Path, root: Path) -> Path | None:
    """Where the base model of the adapter in `path` is, in the model folder `root`; None for what is no adapter, and
    where it is nowhere."""
    if path == root or not (path / "adapter_config.json").is_file():
        return None
    try:
        found = registry.open_checkpoint(path)
        return _place(found.adapters[0], path, root, None) if _is_alone(found) else None
    except LoadError:  # said when the adapter is loaded
        return None


def based(checkpoint: Checkpoint, root: Path, base: Path | None, read: str) -> Checkpoint:
    """An adapter's base model with the adapter beside it; anything else as it is. Raises `NoWeights` where there is no
    base model, `SeveralCheckpoints` where there are several."""
    if not checkpoint.adapters or not _is_alone(checkpoint):
        return _described(checkpoint, checkpoint.adapters, checkpoint.path)
    (adapter,) = checkpoint.adapters
    place = _place(adapter, checkpoint.path, root, base)
    checksums.verify(place, root if place.is_relative_to(root) else place.parent)
    found = registry.open_checkpoint(place, read)
    if found.adapters:
        raise NoWeights(f"the base model of {adapter.name} is to be {place}, which is an adapter itself")
    said = {**found.metadata, "adapter": checkpoint.metadata["adapter"], "adapter_name": adapter.name}
    packed = checkpoint.packed if place.is_relative_to(root) else None
    return _described(replace(found, adapters=(adapter,), metadata=said, packed=packed), (adapter,), checkpoint.path)


def _is_alone(checkpoint: Checkpoint) -> bool:
    return "adapter" in checkpoint.metadata


def _place(adapter: Adapter, path: Path, root: Path, base: Path | None) -> Path:
    """Where the base model is."""
    if base is not None:
        places = [Path(os.path.abspath(folder / base)) for folder in (root, Path.cwd())]  # noqa: PTH100
        place = next((each for each in places if each.exists()), None)
        if place is None:
            raise NoCheckpoint(f"SCORE_BASE={base}: there is no such file or folder", detail=tree(root))
        return place
    named = adapter.config.get("base_model_name_or_path")
    for place in _called(str(named), path, root) if named else ():
        return place
    others = dict.fromkeys(place for folder in _around(path, root) for place in _models_in(folder, path))
    if len(others) == 1:
        return next(iter(others))
    if not others:
        raise NoWeights(
            f"{path.name} holds an adapter ({adapter.config.get('peft_type', 'LoRA')}) only; "
            + (f"the base model {named!r} that it adapts is not here" if named else "its base model is not here"),
            hint="Put the base model's folder beside the adapter's, or name it: SCORE_BASE=/path/to/the/base. Or merge "
            "the two (merge_and_unload of PEFT) and save the result.",
        )
    raise SeveralCheckpoints(
        f"the adapter {path.name} is made for {named!r}, and there are {len(others)} that it could be",
        detail="\n".join(str(each.relative_to(root)) for each in others),
        hint="Name the base model: SCORE_BASE=<one of these>.",
        choices=[{"base": str(each.relative_to(root))} for each in others],
    )


def _around(path: Path, root: Path) -> list[Path]:
    """The folders in which a base model may be: the adapter's own, and that which it is in, within the model folder."""
    return [path] if path == root else [path, *(each for each in path.parents if each.is_relative_to(root))]


def _called(name: str, path: Path, root: Path) -> Iterator[Path]:
    """The folders that are called as the adapter says, or as the end of it, or as the hub's cache has it."""
    last = name.rstrip("/").rpartition("/")[2]
    spellings = dict.fromkeys((name, last, name.replace("/", "--"), name.replace("/", "_")))
    top = resolved(root)
    for folder in _around(path, root):
        for spelling in spellings:
            place = Path(os.path.normpath(folder / spelling))
            real = resolved(place)
            inside = top is not None and real is not None and real.is_relative_to(top)
            if inside and place != path and place.is_dir() and _is_model(place):
                yield place
        cached = folder / f"models--{name.replace('/', '--')}" / "snapshots"
        yield from (each for each in sorted(cached.glob("*"))[:1] if not each.is_symlink() and _is_model(each))


def _models_in(folder: Path, but: Path) -> Iterator[Path]:
    for each in sorted(folder.iterdir()):
        if each.is_dir() and each != but and not each.is_symlink():
            yield from (place for place, _ in checkpoints_in(each, folder) if place != but and _is_model(place))


def _is_model(place: Path) -> bool:
    """Whether a path is a model by itself, and no adapter."""
    try:
        format = registry.detect(place)
        if format is None or not registry.servable(format):
            return False
        found = registry.open_checkpoint(place, "auto", format)
        return "adapter" not in found.metadata and select.holds_weights(found)
    except LoadError:
        return False


def _described(checkpoint: Checkpoint, adapters: tuple[Adapter, ...], path: Path) -> Checkpoint:
    """A base model's class as the adapter means it: its task's, with as many labels and words as the adapter has."""
    if not adapters or not isinstance(checkpoint, DescribedWeights) or not isinstance(checkpoint.model, HfConfig):
        return checkpoint
    (adapter,) = adapters
    auto = adapter.config.get("auto_mapping")
    named = auto.get("base_model_class") if isinstance(auto, dict) else None
    model = replace(
        checkpoint.model,
        task=str(adapter.config.get("task_type") or ""),
        named=named if isinstance(named, str) else "",
        overrides=_overrides(adapter, checkpoint.model.values),
    )
    words = any((path / name).is_file() for name in _TOKENIZER)
    beside = Beside(tokenizer=path) if words and path != checkpoint.path else checkpoint.beside
    return replace(checkpoint, model=model, beside=beside)


def _overrides(adapter: Adapter, config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ref in adapter.tensors.items():
        if name.endswith(_HEADS) and len(ref.shape) == 2:
            found["num_labels"] = ref.shape[0]
        if name.endswith((*_EMBEDDINGS, "lm_head.weight")) and len(ref.shape) == 2:
            found["tie_word_embeddings"] = False  # one of the two was trained by itself
        rows = name.replace(".base_layer.", ".").endswith((*_EMBEDDINGS, "lm_head.weight")) and len(ref.shape) == 2
        if rows and ref.shape[0] != config.get("vocab_size"):
            found["vocab_size"] = ref.shape[0]
    return found
