"""`openvino`: the exported graph, run by OpenVINO on the CPU in float32."""

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from score.formats._program.openvino_graph import keep_denormals
from score.inference.tuning.backends.base import Built, NotPossible, Subject, in_short

NAME, PRECISION = "openvino", "f32"
FILE = "graph.xml"
PACKAGE = "openvino"
OWN_THREADS = True


def missing(device: torch.device) -> str | None:
    if device.type != "cpu":
        return "it is for CPUs here"
    return None if importlib.util.find_spec("openvino") else "openvino is not installed"


missing_to_load = missing


def build(subject: Subject, precision: str = PRECISION) -> Built:
    import openvino

    try:
        graph = openvino.convert_model(subject.exported)
        with_threads = partial(compiled, graph, precision)
        run = with_threads(subject.threads)
    except NotPossible:
        raise
    except Exception as error:  # noqa: BLE001  # OpenVINO's converter raises anything
        raise NotPossible(f"OpenVINO: {in_short(error, -1)}") from None
    return Built(run, partial(_keep, graph), with_threads)


def _keep(graph: Any, folder: Path) -> None:
    import openvino

    openvino.save_model(graph, folder / FILE, compress_to_fp16=False)


def load(folder: Path, threads: int, precision: str = PRECISION) -> Built:
    import openvino

    return Built(compiled(openvino.Core().read_model(folder / FILE), precision, threads))


def compiled(graph: Any, precision: str, threads: int) -> Any:
    import openvino

    said = {
        "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False, "EXECUTION_MODE_HINT": "ACCURACY" if precision == PRECISION else "PERFORMANCE",
    }  # fmt: skip
    request = openvino.Core().compile_model(graph, "CPU", said).create_infer_request()

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        keep_denormals()
        request.infer([value.contiguous().numpy() for value in inputs], share_inputs=True)
        return [torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors]

    return run
