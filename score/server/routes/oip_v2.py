"""The Open Inference Protocol, version 2, with those of Triton's extensions that its clients call.

Specification: kserve/open-inference-protocol, inference_rest.md; triton-inference-server/server, docs/protocol/.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from score import __version__
from score.codecs._oip_tensors import BF16, BYTES, datatype
from score.errors import NotSupported
from score.inference.signature import InputSpec
from score.server import answer
from score.server.answer import Answer
from score.server.api import OIP_V2 as API
from score.server.models import READY
from score.server.routes.table import Asked, Page, Predicts, Row, of_model
from score.server.service import Service

PLATFORM = "pytorch"
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "statistics",
    "binary_tensor_data",
    "parameters",
    "trace",
    "logging",
)
_SCALARS = {"py_int": "INT64", "py_float": "FP64", "py_bool": "BOOL"}
_CONFIG = {"BYTES": "TYPE_STRING"}
TRACE: Mapping[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
LOGGING: Mapping[str, Any] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


def metadata(service: Service) -> dict[str, Any]:
    """What a model takes and gives, in the protocol's datatypes; -1 where any size goes."""
    return {
        "name": service.name,
        "versions": [service.version],
        "platform": PLATFORM,
        "inputs": _inputs(service),
        "outputs": _outputs(service),
    }


def _inputs(service: Service) -> list[dict[str, Any]]:
    if service.predictor.runner is not None:  # it takes its tensors too; these are what people send
        return [{"name": service.predictor.runner.card()["takes"], "datatype": BYTES, "shape": [-1]}]
    return [
        {
            "name": spec.name,
            "datatype": kind(spec),
            "shape": [-1 if size is None else size for size in spec.shape or ()],
        }
        for spec in service.predictor.signature.inputs
    ]


def _outputs(service: Service) -> list[dict[str, Any]]:
    if service.predictor.runner is not None:
        embeds = service.predictor.runner.task == "sentence-embeddings"
        return [{"name": "output", "datatype": "FP32" if embeds else BYTES, "shape": [-1, -1] if embeds else [-1]}]
    known = service.predictor.outputs
    return [
        {"name": name, "datatype": datatype(dtype), "shape": [-1, *shape[1:]] if shape else []}
        for name, (dtype, shape) in known.items()
    ]


def kind(spec: InputSpec) -> str:
    """The protocol's name for what an input is of."""
    if spec.scalar:
        return _SCALARS[spec.dtype]
    if spec.torch_dtype == torch.bfloat16:
        return BF16
    return datatype(str(np.dtype(spec.dtype).str))


def config(service: Service) -> dict[str, Any]:
    """The model configuration as Triton's clients read it."""
    batcher = service.predictor.batcher
    batched = bool(batcher.separable)

    def listed(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                "name": each["name"],
                "data_type": _CONFIG.get(each["datatype"], f"TYPE_{each['datatype']}"),
                "dims": each["shape"][1:] if batched else each["shape"],
            }
            for each in tensors
        ]

    return {
        "name": service.name,
        "platform": "",
        "backend": PLATFORM,
        "max_batch_size": batcher.most_rows if batched else 0,
        "input": listed(_inputs(service)),
        "output": listed(_outputs(service)),
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
    }


def _server(_asked: Asked) -> Answer:
    return answer.of_json({"name": "loadstone", "version": __version__, "extensions": EXTENSIONS})


def _live(_asked: Asked) -> Answer:
    return answer.of_json({"live": True})


def _ready(asked: Asked) -> Answer:
    """Whether predictions are answered: where no model can be loaded, the reason is the answer."""
    ready = asked.models.ready
    return answer.of_json({"ready": ready}, 200 if ready else 503)


def _model_ready(asked: Asked) -> Answer:
    """Asking does not load it."""
    name = asked.model
    ready = asked.models.state(name)["state"] == READY
    return answer.of_json({"name": name, "ready": ready}, 200 if ready else 503)


def _models(asked: Asked) -> Answer:
    return answer.of_json({"models": asked.models.names})


def _index(asked: Asked) -> Answer:
    only_ready = asked.document().get("ready") is True
    listed = [each for each in asked.models.index() if each["state"] == READY or not only_ready]
    return answer.of_json(listed)


def _load(asked: Asked) -> Answer:
    given = asked.document().get("parameters") or {}
    if isinstance(given, dict) and given:
        raise NotSupported(
            f"a model is loaded as it lies in the model folder, and not with {', '.join(map(str, given))[:200]}",
            hint="Put what belongs to the model into its folder.",
        )
    asked.models.load(asked.model)
    return answer.of_json({})


def _unload(asked: Asked) -> Answer:
    asked.models.unload(asked.model)
    return answer.of_json({})


def _statistics(asked: Asked) -> Answer:
    found = asked.models.observers()
    names = [asked.model] if "model" in asked.path else list(found)
    versions = {each["name"]: each["version"] for each in asked.models.index()}
    stats = [{"name": name, "version": versions[name], **found[name].as_triton()} for name in names]
    return answer.of_json({"model_stats": stats})


def _settings(current: Mapping[str, Any], what: str) -> Any:
    """A page of settings that are fixed: what asks for others is told so."""

    def page(asked: Asked) -> Answer:
        if "model" in asked.path:
            asked.models.state(asked.model)
        refuse_changed(current, asked.document() if asked.head.method == "POST" else {}, what)
        return answer.of_json(dict(current))

    return page


def refuse_changed(current: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    """Raise `NotSupported` for a setting that is to be another than it is; nothing asks for what there is."""
    for name, value in wanted.items():
        if value not in (None, [], current.get(name, ...)):
            raise NotSupported(
                f"{what} {str(name)[:80]} can't be changed to {str(value)[:80]!r}",
                hint="Set it for the deployment: see docs/settings.md.",
            )


def _no_memory(_asked: Asked) -> Answer:
    return answer.of_json([])


def _none_to_give_up(_asked: Asked) -> Answer:
    return answer.of_json({})


def _refuse_memory(_asked: Asked) -> Answer:
    raise NotSupported("shared memory between client and server is not supported")


def _of_memory(kind: str) -> list[Row]:
    what = f"{kind} shared memory"
    rows: list[Row] = []
    for between in ("", "/region/{region}"):
        path = f"/v2/{kind}sharedmemory{between}"
        rows += [
            Page(f"{path}/status", f"Regions of {what}: there are none", _no_memory, API, at_once=True),
            Page(f"{path}/unregister", f"Give up {what}", _none_to_give_up, API, ("POST",), at_once=True),
        ]
    register = f"/v2/{kind}sharedmemory/region/{{region}}/register"
    return [*rows, Page(register, f"Refused: {what}", _refuse_memory, API, ("POST",), at_once=True)]


_trace = _settings(TRACE, "the trace setting")
_logging = _settings(LOGGING, "the log setting")
_M, _V = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
_BOTH = ("GET", "POST")

ROWS: tuple[Row, ...] = (
    Predicts(f"{_M}/infer", "Predictions for tensors", API),
    Predicts(f"{_V}/infer", "Predictions for tensors", API),
    Page("/v2", "The server, and the extensions that it has", _server, API, at_once=True),
    Page("/v2/", "The server, and the extensions that it has", _server, API, at_once=True),
    Page("/v2/health/live", "Whether the server is up", _live, API, at_once=True),
    Page("/v2/health/ready", "Whether predictions are answered", _ready, API, at_once=True),
    Page("/v2/models", "The names of the models", _models, API, at_once=True),
    Page("/v2/models/stats", "Counters of all models", _statistics, API, at_once=True),
    *(
        row
        for base in (_M, _V)
        for row in (
            Page(base, "What a model takes and gives", of_model(metadata), API),
            Page(f"{base}/ready", "Whether a model answers", _model_ready, API, at_once=True),
            Page(f"{base}/config", "A model's configuration", of_model(config), API),
            Page(f"{base}/stats", "A model's counters", _statistics, API, at_once=True),
        )
    ),
    Page("/v2/repository/index", "All models and their states", _index, API, ("POST",), at_once=True),
    Page("/v2/repository/models/{model}/load", "Load a model", _load, API, ("POST",)),
    Page("/v2/repository/models/{model}/unload", "Unload a model", _unload, API, ("POST",)),
    Page("/v2/trace/setting", "Trace settings", _trace, API, _BOTH, at_once=True),
    Page(f"{_M}/trace/setting", "A model's trace settings", _trace, API, _BOTH, at_once=True),
    Page("/v2/logging", "Log settings", _logging, API, _BOTH, at_once=True),
    *_of_memory("system"),
    *_of_memory("cuda"),
)
