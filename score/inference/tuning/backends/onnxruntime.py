"""`onnxruntime`: the exported graph as ONNX, run by onnxruntime. Writing it takes the packages onnx and onnxscript."""

import importlib.util
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from score.inference.tuning.backends.base import Built, NotPossible, Subject, in_short
from score.inference.tuning.swap import Run

NAME = PACKAGE = "onnxruntime"
FILE = "graph.onnx"
OWN_THREADS = True


def missing(device: torch.device, packages: Sequence[str] = ("onnxruntime", "onnx", "onnxscript")) -> str | None:
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if device.type != "cpu":
        return "it is for CPUs here"
    return f"{', '.join(lacking)} not installed" if lacking else None


def missing_to_load(device: torch.device) -> str | None:
    return missing(device, ("onnxruntime",))


def build(subject: Subject) -> Built:
    try:
        program = torch.onnx.export(subject.exported, dynamo=True, verbose=False, optimize=True)
        assert program is not None
        with_threads = partial(_with_threads, program)
        run = with_threads(subject.threads)
    except NotPossible:
        raise
    except Exception as error:  # noqa: BLE001  # the exporter raises anything
        raise NotPossible(f"ONNX: {in_short(error)}") from None
    return Built(run, partial(_keep, program), with_threads)


def _with_threads(program: Any, threads: int) -> Run:
    with tempfile.TemporaryDirectory() as place:
        _keep(program, Path(place))
        return load(Path(place), threads).run


def _keep(program: Any, folder: Path) -> None:
    program.save(str(folder / FILE), external_data=False)


def load(folder: Path, threads: int) -> Built:
    return Built(_running(_session(folder / FILE, threads)))


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _running(session: Any) -> Run:
    names = [each.name for each in session.get_inputs()]

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        given = {name: value.contiguous().numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run
