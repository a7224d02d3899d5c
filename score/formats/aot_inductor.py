"""`aot-inductor`: a `.pt2` with a compiled shared library. Native code: loaded only when trusted.

Source: torch/_inductor/package/package.py.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from score.errors import MalformedFile, VersionTooOld
from score.formats._io.source import Source
from score.formats._io.zip import Archive
from score.formats.base import Checkpoint, Program
from score.formats.probe import Probe

NAME = "aot-inductor"
PRIORITY = 0
SERVABLE = True
FOLDER = "data/aotinductor/"


def detect(probe: Probe) -> bool:
    return probe.has_under("data/aotinductor")


def open(path: Path, read: str) -> Checkpoint:
    """Its weights are constants inside the library, which only running it could show: there are none to read."""
    archive = Archive(Source(path, read))
    libraries = tuple(name for name in archive.names() if name.endswith((".so", ".pyd", ".dll", ".cubin")))
    return Program(
        NAME,
        path,
        {},
        metadata={"libraries": list(libraries)},
        build=lambda device: _load(path, device).eval(),
        class_path="torch._inductor.AOTICompiledModel",
        code=libraries or (FOLDER,),
    )


class Compiled(nn.Module):
    """A compiled model behind the interface of a module."""

    def __init__(self, package: Any, device: torch.device) -> None:
        super().__init__()
        self.package = package
        self.register_buffer("place", torch.empty(0, device=device))  # says where inputs have to be

    def forward(self, *inputs: Any) -> Any:
        return self.package(*inputs)


def _load(path: Path, device: torch.device) -> nn.Module:
    index = (device.index or 0) if device.type == "cuda" else -1
    try:
        return Compiled(torch._inductor.aoti_load_package(str(path), device_index=index), device)
    except (RuntimeError, ValueError) as error:
        kind = VersionTooOld if "version" in str(error) else MalformedFile
        raise kind(f"{path.name}: torch {torch.__version__} can't load it: {str(error).splitlines()[0]}") from None
