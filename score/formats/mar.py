"""`mar`: a TorchServe archive. Its serialized file is served; its model file gives the class, if trusted; its handler
is reported and never run.

Source: https://github.com/pytorch/serve, model-archiver, `MAR-INF/MANIFEST.json`.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from score.errors import ArchitectureBroken, NoWeights
from score.formats._io.source import Source
from score.formats._io.zip import Archive
from score.formats._program.export_schema import json_record
from score.formats.base import Checkpoint, DescribedWeights, ModelFactory, Program
from score.formats.probe import Probe

NAME = "mar"
PRIORITY = 0
SERVABLE = True
MANIFEST = "MAR-INF/MANIFEST.json"


def detect(probe: Probe) -> bool:
    return MANIFEST in probe.names


def open(path: Path, read: str) -> Checkpoint:
    from score.formats.registry import open_checkpoint  # the serialized file may be of any format

    archive = Archive(Source(path, read))
    manifest = json_record(archive, MANIFEST)
    model = manifest.get("model")
    described: dict[str, Any] = model if isinstance(model, dict) else {}
    serialized, code = described.get("serializedFile"), described.get("modelFile")
    if not isinstance(serialized, str):
        raise NoWeights(f"{path.name} has no serialized file; its handler makes the model: {described.get('handler')}")
    inner_path, held = archive.extracted(serialized)
    inner = open_checkpoint(inner_path, "mmap")
    metadata = {
        "model": described.get("modelName"),
        "serialized_file": serialized,
        "inner_format": inner.format,
        "handler_not_run": described.get("handler"),
        **inner.metadata,
    }
    if isinstance(code, str) and not isinstance(inner, Program):  # a program needs no class
        return DescribedWeights(
            NAME, path, inner.tree, inner.unsafe_globals, metadata, held=held, model=_factory(path, archive, code)
        )
    return replace(inner, format=NAME, path=path, metadata=metadata, held=held)


def _factory(path: Path, archive: Archive, record: str) -> ModelFactory:
    """The one nn.Module subclass that the model file defines. Importing the file is running code: only when trusted."""

    def build() -> torch.nn.Module:
        name = f"score_mar_{abs(hash(path))}"
        spec = importlib.util.spec_from_loader(name, loader=None)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        exec(compile(archive.text(record), record, "exec"), module.__dict__)  # noqa: S102  # behind the trust policy
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, torch.nn.Module) and value.__module__ == name
        ]
        if len(found) != 1:
            names = ", ".join(cls.__name__ for cls in found) or "none"
            raise ArchitectureBroken(f"{record} in {path.name} should define one model class, and defines {names}")
        return found[0]()

    return ModelFactory(f"{path.name}:{record}", build, code=(f"the model file {record}",))
