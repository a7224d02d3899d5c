"""`hf-dir`: a folder with a `config.json` and weights, as `save_pretrained` writes it.

Which class the configuration means is for `score.architectures.hf_config` to say; the weights are read here, so that
none is ever left as transformers would initialise it.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from score.errors import ArchitectureBroken, NoWeights
from score.formats import onnx, openvino, safetensors, shards, torch_bin_sharded
from score.formats._io.folder import contained, json_file, within
from score.formats._pickle.inert import settled
from score.formats.base import Adapter, Checkpoint, DescribedWeights, HfConfig, StateDict, TensorRef
from score.formats.probe import Probe

NAME = "hf-dir"
PRIORITY = 0
SERVABLE = True
# What the weights may be called, in the order in which transformers prefers them.
_SINGLE = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
# Weights of other libraries beside a configuration: what they are, and the way out.
_AGAIN = "Save the model with transformers' save_pretrained under PyTorch, or download its model.safetensors."
_OTHERS = (
    ("*.onnx", "ONNX", "Name the graph, as SCORE_CHECKPOINT=model.onnx: it is served where onnxruntime is installed."),
    ("onnx/*.onnx", "ONNX", "Name the graph, as SCORE_CHECKPOINT=onnx/model.onnx: it is served through onnxruntime."),
    ("*.xml", "OpenVINO", "Name the graph, as SCORE_CHECKPOINT=openvino_model.xml: it is served through openvino."),
    ("tf_model*.h5", "TensorFlow", _AGAIN),
    ("model.ckpt*.index", "TensorFlow 1", _AGAIN),
    ("flax_model*.msgpack", "Flax", _AGAIN),
    ("rust_model.ot", "rust-bert", _AGAIN),
)
_SHOWN = ("model_type", "architectures", "torch_dtype", "dtype", "transformers_version", "quantization_config")


def detect(probe: Probe) -> bool:
    if not probe.is_dir:
        return False
    if _is_file(probe.path / "adapter_config.json"):
        return True
    config = probe.path / "config.json"
    if not _is_file(config) or _is_file(probe.path / "MLmodel"):
        return False
    if weights_in(probe.path) is not None:
        return True
    others = any(probe.path.glob("*.gguf"))  # which say all of themselves
    return not others and b'"model_type"' in config.read_bytes()[:1_000_000]


def open(path: Path, read: str, described_by: Path | None = None) -> Checkpoint:
    """The weights under their own names. `described_by` is the folder of config.json, where that is another. Raises
    `NoWeights` for a configuration without, and for an adapter alone."""
    described_by = described_by or path
    for folder in {path, described_by}:
        _refuse_links(folder)
    found = weights_in(path)
    adapts = next((name for name in _ADAPTERS if _is_file(path / name)), None)
    if found is None and adapts:
        return _adapter(path, adapts, read)
    if found is None and (graph := _graph(path)) is not None:
        opener = openvino.open if graph.suffix == ".xml" else onnx.open
        inner = opener(graph, read)
        said = {"weights": graph.relative_to(path).as_posix(), **inner.metadata}
        return replace(inner, format=NAME, path=path, metadata=said)
    if found is None:
        raise _no_weights(path)
    inner = open_weights(path, found, read)
    config = json_file(within(described_by, "config.json"))
    _refuse_kernels(path, config)
    shown: dict[str, Any] = {key: config[key] for key in _SHOWN if key in config}
    return DescribedWeights(
        NAME,
        path,
        inner.tree,
        model=HfConfig(described_by, config),
        unsafe_globals=inner.unsafe_globals,
        metadata={"weights": found, **inner.metadata, **shown, **_gptq(path)},
        adapters=_adapter(path, adapts, read).adapters if adapts else (),
    )


# A model in one graph, in full precision, as Optimum names it.
_GRAPHS = ("model.onnx", "onnx/model.onnx", "openvino_model.xml", "openvino/openvino_model.xml")


def _graph(folder: Path) -> Path | None:
    """The graph of a folder without weights of PyTorch's; none of a model that takes several, one after the other."""
    found = next((folder / name for name in _GRAPHS if _is_file(folder / name)), None)
    several = found is not None and any(_is_file(found.with_name(name)) for name in _TOGETHER)
    return None if several else found


_TOGETHER = ("decoder_model.onnx", "decoder_model_merged.onnx", "encoder_model.onnx", "openvino_decoder_model.xml")


def _gptq(folder: Path) -> dict[str, Any]:
    """What AutoGPTQ said of its weights before configurations had a place for it."""
    file = folder / "quantize_config.json"
    return {"quantization_config": {"quant_method": "gptq", **json_file(file)}} if _is_file(file) else {}


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


def _adapter(path: Path, name: str, read: str) -> Checkpoint:
    """What adapts a model that is elsewhere: its tensors, and what it says of itself."""
    inner = open_weights(path, name, read)
    config = json_file(path / "adapter_config.json") if _is_file(path / "adapter_config.json") else {}
    tensors = {str(key): ref for key, value in inner.tree.items() if isinstance(ref := settled(value), TensorRef)}
    said = {"adapter": str(config.get("peft_type", "LoRA")), "base_model": config.get("base_model_name_or_path")}
    return StateDict(
        NAME,
        path,
        inner.tree,
        unsafe_globals=inner.unsafe_globals,
        metadata={"weights": name, **said, **inner.metadata},
        adapters=(Adapter(path.name, config, tensors),),
    )


def weights_in(folder: Path) -> str | None:
    """The file, or the index, that holds the weights."""
    probe = Probe(folder)
    for suffix in (".safetensors.index.json", ".bin.index.json"):
        if (found := shards.index(probe, suffix)) is not None:
            return found.name
    return next((name for name in _SINGLE if _is_file(folder / name)), None)


def open_weights(folder: Path, name: str, read: str) -> Checkpoint:
    if name.endswith(".safetensors.index.json"):
        return shards.open_index(folder, ".safetensors.index.json", read, NAME, safetensors.open)
    if name.endswith(".bin.index.json"):
        return shards.open_index(folder, ".bin.index.json", read, NAME, torch_bin_sharded.open_shard)
    opener: Callable[[Path, str], Checkpoint] = (
        safetensors.open if name.endswith(".safetensors") else torch_bin_sharded.open_shard
    )
    return opener(within(folder, name), read)


def _no_weights(folder: Path) -> NoWeights:
    if _is_file(folder / "adapter_config.json"):
        base = json_file(folder / "adapter_config.json").get("base_model_name_or_path")
        return NoWeights(
            f"{folder.name} holds an adapter (LoRA) only; it is made for the base model {base!r}, whose weights are "
            "not here",
            hint="Merge the two (merge_and_unload of PEFT) and save the result; or serve the base model alone.",
        )
    for pattern, kind, way_out in _OTHERS:
        if any(folder.glob(pattern)):
            said = f"{folder.name} holds a config.json with weights of {kind}, and none of PyTorch"
            return NoWeights(said, hint=way_out)
    return NoWeights(f"{folder.name} holds a config.json, an architecture without weights")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # False where it can't be read
