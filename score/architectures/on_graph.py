"""A graph of ONNX or OpenVINO in a folder of transformers, as Optimum exports it: answered with as its class is."""

import dataclasses
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score.architectures.sentence_encoder import SentenceEncoder, Unknown, modules
from score.errors import ArchitectureBroken
from score.formats._io.folder import json_file
from score.formats.base import Checkpoint, HfConfig, Program

_SUBFOLDERS = ("onnx", "openvino")  # of a folder of transformers, with graphs beside its weights


def described_by(checkpoint: Checkpoint) -> HfConfig | None:
    """The configuration that a graph lies beside; None where there is none, or it is not transformers'."""
    if not isinstance(checkpoint, Program) or checkpoint.format not in ("onnx", "openvino", "hf-dir"):
        return None
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    folder = folder.parent if folder.name in _SUBFOLDERS and not (folder / "config.json").is_file() else folder
    config = folder / "config.json"
    if not config.is_file() or config.is_symlink() or importlib.util.find_spec("transformers") is None:
        return None
    said = json_file(config)
    names = said.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    known = isinstance(said.get("model_type"), str) and isinstance(name, str) and name.isidentifier()
    return HfConfig(folder, said) if known else None


def name_of(described: HfConfig) -> str:
    return f"transformers.{described.values['architectures'][0]}"


def built(graph: nn.Module, described: HfConfig) -> nn.Module:
    """A graph's module behind the interface of its class in transformers, which answers by name; with what
    sentence-transformers puts behind it, where the folder says so."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            str(described.folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001  # transformers raises anything
        raise ArchitectureBroken(
            f"{described.folder.name}: transformers can't read its config.json ({type(error).__name__}: "
            f"{str(error)[:300]})",
            hint="Install the version of transformers that the folder was written with.",
        ) from None
    module: nn.Module = _class(name_of(described).rpartition(".")[2], graph)(config, graph)
    try:
        behind = modules(described.folder, _no_weights)
    except Unknown as error:
        raise ArchitectureBroken(f"{described.folder.name} is of sentence-transformers: {error}") from None
    return (module if behind is None else SentenceEncoder(module, *behind)).eval()


def _no_weights(folder: Path) -> dict[str, torch.Tensor]:
    raise Unknown(f"{folder.name} has a layer of its own behind the graph, whose weights are not in it")


def _class(name: str, graph: Any) -> type:
    """A class by the name that pipelines look for, whose `forward` takes what the graph takes, by name."""
    import transformers
    from transformers.utils.generic import ModelOutput

    outputs = dataclasses.make_dataclass(
        "GraphOutput", [(each, Any, dataclasses.field(default=None)) for each in graph.outputs], bases=(ModelOutput,)
    )

    def forward(self: Any, *positional: Any, **named: Any) -> Any:
        inputs = dict(zip(graph.names, positional, strict=False)) | named
        lacking = [each for each in graph.names if inputs.get(each) is None]
        if lacking:
            raise ValueError(f"the graph takes {', '.join(graph.names)}, and {', '.join(lacking)} is not given")
        given = [inputs[each].to(_dtype(graph.takes[each])) for each in graph.names]
        found = graph(*given)
        return outputs(**(found if isinstance(found, dict) else {graph.outputs[0]: found}))

    any_order = inspect.Parameter.POSITIONAL_OR_KEYWORD
    takes = [inspect.Parameter(each, any_order, default=None, annotation="torch.Tensor") for each in graph.names]
    forward.__signature__ = inspect.Signature([inspect.Parameter("self", any_order), *takes])  # type: ignore[attr-defined]

    def start(self: Any, config: Any, inner: nn.Module) -> None:
        transformers.PreTrainedModel.__init__(self, config)
        self.graph = inner

    main = next((each for each in ("input_ids", "pixel_values", "input_values") if each in graph.names), graph.names[0])
    said = {"__init__": start, "forward": forward, "main_input_name": main}
    floats = [found for each in graph.names if (found := _dtype(graph.takes[each])).is_floating_point]
    said |= {"config_class": transformers.PretrainedConfig, "dtype": next(iter(floats), torch.float32)}
    return type(name, (transformers.PreTrainedModel,), said)


def _dtype(spec: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, spec.partition("[")[0])
    return found
