"""`hf-dir`: a folder with a `config.json` and weights, as `save_pretrained` writes it.

Where transformers is installed, it gives the architecture; the weights are read and aligned here either way, so that
none is ever left as transformers would initialise it.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loadstone_models._sentence import SentenceEncoder, Unknown, modules
from torch import nn

from score.errors import ArchitectureBroken, NoWeights
from score.formats import _shards, safetensors, torch_bin_sharded
from score.formats._restricted import settled
from score.formats._shards import contained, json_file, within
from score.formats.contents import Contents, Design, TensorRef
from score.formats.probe import Probe
from score.providers import PROVIDERS, builder

NAME = "hf-dir"
# What the weights may be called, in the order in which transformers prefers them.
_SINGLE = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_SHOWN = ("model_type", "architectures", "torch_dtype", "dtype", "transformers_version", "quantization_config")


def detect(probe: Probe) -> bool:
    if not probe.is_dir:
        return False
    if _is_file(probe.path / "adapter_config.json"):
        return True
    config = probe.path / "config.json"
    if not _is_file(config) or _is_file(probe.path / "MLmodel"):
        return False
    return _weights_in(probe.path) is not None or b'"model_type"' in config.read_bytes()[:1_000_000]


def open(path: Path, read: str) -> Contents:
    """The weights under their own names. Raises `NoWeights` for a configuration without, and for an adapter alone."""
    _refuse_links(path)
    found = _weights_in(path)
    if found is None and (only := next((name for name in _ADAPTERS if _is_file(path / name)), None)):
        return _adapter(path, only, read)
    if found is None:
        raise NoWeights(_why_none(path))
    inner = _open_weights(path, found, read)
    config = json_file(within(path, "config.json"))
    _refuse_kernels(path, config)
    shown: dict[str, Any] = {key: config[key] for key in _SHOWN if key in config}
    return Contents(
        NAME,
        path,
        inner.tree,
        design=_design(path, config),
        unsafe_globals=inner.unsafe_globals,
        metadata={"weights": found, **shown, **inner.metadata},
    )


def _refuse_links(folder: Path) -> None:
    """transformers reads whatever lies in a folder by its name: no file of it may lead out. Raises `MalformedFile`."""
    for item in folder.iterdir():
        if item.is_symlink():
            contained(folder, item.name)


# What is there without being fetched; other names are of repositories with kernels.
_ATTENTION = frozenset(("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", None))


def _refuse_kernels(folder: Path, config: Any, depth: int = 8) -> None:
    """A configuration may choose among what is here, and not name what would be fetched and run."""
    if isinstance(config, dict) and depth:
        for key, value in config.items():
            if str(key).endswith("attn_implementation") and (isinstance(value, dict) or value not in _ATTENTION):
                raise ArchitectureBroken(
                    f"{folder.name}: config.json names {value!r:.120} for its attention, to be fetched and run",
                    hint="Remove it from config.json: what is here computes the same.",
                )
            _refuse_kernels(folder, value, depth - 1)


def _adapter(path: Path, name: str, read: str) -> Contents:
    """What adapts a model that is elsewhere: its tensors, and what it says of itself."""
    inner = _open_weights(path, name, read)
    config = json_file(path / "adapter_config.json") if _is_file(path / "adapter_config.json") else {}
    said = {"adapter": str(config.get("peft_type", "LoRA")), "base_model": config.get("base_model_name_or_path")}
    return Contents(
        NAME,
        path,
        inner.tree,
        unsafe_globals=inner.unsafe_globals,
        metadata={"weights": name, **said, **inner.metadata},
    )


def _weights_in(folder: Path) -> str | None:
    """The file, or the index, that holds the weights."""
    probe = Probe(folder)
    for suffix in (".safetensors.index.json", ".bin.index.json"):
        if (found := _shards.index(probe, suffix)) is not None:
            return found.name
    return next((name for name in _SINGLE if _is_file(folder / name)), None)


def _open_weights(folder: Path, name: str, read: str) -> Contents:
    if name.endswith(".safetensors.index.json"):
        return _shards.open_index(folder, ".safetensors.index.json", read, NAME, safetensors.open)
    if name.endswith(".bin.index.json"):
        return _shards.open_index(folder, ".bin.index.json", read, NAME, torch_bin_sharded.open_shard)
    opener: Callable[[Path, str], Contents] = (
        safetensors.open if name.endswith(".safetensors") else torch_bin_sharded.open_shard
    )
    return opener(within(folder, name), read)


def _why_none(folder: Path) -> str:
    if _is_file(folder / "adapter_config.json"):
        base = json_file(folder / "adapter_config.json").get("base_model_name_or_path")
        return (
            f"{folder.name} holds an adapter (LoRA) only; it is made for the base model {base!r}, whose weights are "
            "not here. Merge the two (merge_and_unload) and save the result"
        )
    return f"{folder.name} holds a config.json, an architecture without weights"


def _design(folder: Path, config: dict[str, Any]) -> Design | None:
    """The class that the configuration names, if transformers is here and has it. Its own code is never run."""
    if isinstance(config.get("architecture"), str) and "architectures" not in config:
        return _of_timm(config)
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    if name is None or not name.isidentifier() or importlib.util.find_spec("transformers") is None:
        return None

    def build() -> nn.Module:
        import transformers

        cls = getattr(transformers, name, None)
        if cls is None or not hasattr(cls, "config_class"):
            raise ArchitectureBroken(
                f"transformers {transformers.__version__} has no class {name}",
                hint="Install the version of transformers that the model was saved with, or set SCORE_ARCHITECTURE.",
            )
        module: nn.Module = cls(cls.config_class.from_pretrained(str(folder), local_files_only=True))
        try:
            behind = modules(folder, _tensors)
        except Unknown as error:
            raise ArchitectureBroken(
                f"{folder.name} is of sentence-transformers: {error}",
                hint="Serve it with the version of sentence-transformers that wrote it, or export it to ONNX.",
            ) from None
        return module if behind is None else SentenceEncoder(module, *behind)

    return Design(f"transformers.{name}", build)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's one file of weights."""
    found = _weights_in(folder)
    if found is None:
        raise Unknown(f"{folder.name} holds no weights")
    tree = _open_weights(folder, found, "read").tree
    refs = {name: settled(value) for name, value in tree.items()} if isinstance(tree, dict) else {}
    return {name: ref.load() for name, ref in refs.items() if isinstance(ref, TensorRef)}


def _of_timm(config: dict[str, Any]) -> Design | None:
    """timm's own configuration names the architecture and its number of classes."""
    name, size = f"timm:{config['architecture']}", config.get("num_classes")
    if not PROVIDERS["timm"].installed:
        return None
    build = builder(name)
    assert build is not None
    kwargs = {"num_classes": size} if isinstance(size, int) else {}
    return Design(name, lambda: build(**kwargs))


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # False where it can't be read
