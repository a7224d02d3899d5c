"""`inductor`: the exported graph, compiled by torch's Inductor with its weights frozen into it.

Compiling takes a C++ compiler, which the serving image lacks: what is compiled is kept as an AOTInductor package. That
is native code, and it is loaded only where its SHA-256 is trusted.
"""

import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from score.inference.tuning.backends.base import Built, NotPossible, Subject, in_short

NAME = "inductor"
FILE = "graph.pt2"
CODE = (FILE,)  # what has to be trusted before it is loaded


def missing(device: torch.device) -> str | None:
    return None if shutil.which("g++") or shutil.which("clang++") else "there is no C++ compiler"


def missing_to_load(_device: torch.device) -> str | None:
    return None


def build(subject: Subject) -> Built:
    held = tempfile.TemporaryDirectory(prefix="score-")
    path = Path(held.name) / FILE
    try:
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                subject.exported, package_path=str(path), inductor_configs={"freezing": True}
            )
        run = _running(path)
    except NotPossible:
        raise
    except Exception as error:  # noqa: BLE001  # the compiler raises anything
        raise NotPossible(f"Inductor: {in_short(error)}") from None
    return Built(run, partial(_keep, held))


def _keep(held: Any, folder: Path) -> None:
    shutil.copy(Path(held.name) / FILE, folder / FILE)


def load(folder: Path, threads: int) -> Built:
    return Built(_running(folder / FILE))


def _running(path: Path) -> Any:
    package = torch._inductor.aoti_load_package(str(path))

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        found = package(*inputs)
        return [found] if isinstance(found, torch.Tensor) else list(found)

    return run
