"""A model that Inductor compiled behind the interface of a module. Native code: only when trusted."""

from pathlib import Path
from typing import Any

import torch

from score.errors import MalformedFile, VersionTooOld


class Compiled(torch.nn.Module):
    def __init__(self, package: Any, device: torch.device) -> None:
        super().__init__()
        self.package = package
        self.register_buffer("place", torch.empty(0, device=device))  # says where inputs have to be

    def forward(self, *inputs: Any) -> Any:
        return self.package(*inputs)


def load(path: Path, device: torch.device) -> torch.nn.Module:
    index = (device.index or 0) if device.type == "cuda" else -1
    try:
        return Compiled(torch._inductor.aoti_load_package(str(path), device_index=index), device)
    except (RuntimeError, ValueError) as error:
        kind = VersionTooOld if "version" in str(error) else MalformedFile
        raise kind(f"{path.name}: torch {torch.__version__} can't load it: {str(error).splitlines()[0]}") from None
