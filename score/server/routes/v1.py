"""`/v1`: KServe's version 1, TensorFlow Serving's REST interface, and OpenAI's embeddings, which share their paths.

What two of them have at one path is answered with the keys of both.

Specifications: kserve.github.io (data plane, v1 protocol); tensorflow/serving, api_rest.md; platform.openai.com/docs.
"""

from typing import Any

from score.server import answer
from score.server.answer import Answer
from score.server.api import OPENAI, TF
from score.server.models import READY
from score.server.routes.oip_v2 import metadata
from score.server.routes.table import Asked, Page, Predicts, Row
from score.server.service import Service

OWNER = "loadstone"


def _entry(name: str) -> dict[str, Any]:
    """A model as OpenAI's clients list it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


def _models(asked: Asked) -> Answer:
    names = asked.models.names
    return answer.of_json({"models": names, "object": "list", "data": [_entry(name) for name in names]})


def _model(asked: Asked) -> Answer:
    """Asking does not load it."""
    name = asked.model
    state = asked.models.state(name)
    ready = state["state"] == READY
    status = {
        "version": state["version"],
        "state": "AVAILABLE" if ready else "END",
        "status": {"error_code": "OK" if ready else "UNAVAILABLE", "error_message": state["reason"] * (not ready)},
    }
    found = {"name": name, "ready": ready, "model_version_status": [status], **_entry(name)}
    return answer.of_json(found, 200 if ready else 503)


def _metadata(asked: Asked) -> Answer:
    with asked.models.using(asked.model) as service:
        return answer.of_json(_signature(service))


def _signature(service: Service) -> dict[str, Any]:
    """As TensorFlow Serving describes a model's only signature."""
    found = metadata(service)

    def tensors(listed: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            each["name"]: {
                "dtype": _DTYPES.get(each["datatype"], f"DT_{each['datatype']}"),
                "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in each["shape"]]},
                "name": each["name"],
            }
            for each in listed
        }

    signature = {
        "inputs": tensors(found["inputs"]),
        "outputs": tensors(found["outputs"]),
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": service.name, "signature_name": "", "version": service.version},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


_DTYPES = {
    "FP16": "DT_HALF", "BF16": "DT_BFLOAT16", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING",
}  # fmt: skip
_M, _V = "/v1/models/{model}", "/v1/models/{model}/versions/{version}"

ROWS: tuple[Row, ...] = (
    Predicts(f"{_M}:predict", "Predictions for `instances`, or `inputs`", TF),
    Predicts(f"{_V}:predict", "Predictions for `instances`, or `inputs`", TF),
    Predicts("/v1/embeddings", "Embeddings of texts", OPENAI),
    Page("/v1/models", "The names of the models", _models, TF, at_once=True),
    Page(f"{_M}/metadata", "What a model takes and gives", _metadata, TF),
    Page(f"{_V}/metadata", "What a model takes and gives", _metadata, TF),
    Page(_V, "Whether a model answers", _model, TF, at_once=True),
    Page(_M, "Whether a model answers", _model, TF, at_once=True),
)
