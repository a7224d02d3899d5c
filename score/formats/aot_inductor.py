"""`aot-inductor`: a `.pt2` with a compiled shared library. Native code: loaded only when trusted.

Source: torch/_inductor/package/package.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

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
        build=partial(_load, path),
        class_path="torch._inductor.AOTICompiledModel",
        code=libraries or (FOLDER,),
    )


def _load(path: Path, device: torch.device) -> torch.nn.Module:
    from score.formats._program import compiled  # a module of torch's, which reading does without

    return compiled.load(path, device).eval()
