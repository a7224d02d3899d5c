"""MLflow's scoring server, which SageMaker's containers share their paths with, and TorchServe's inference interface.

Specifications: mlflow.org/docs, "Deploy MLflow model as a local inference server"; docs.aws.amazon.com/sagemaker, "Use
your own inference code with hosting services"; pytorch.org/serve/inference_api.html.
"""

from score import __version__
from score.server import answer
from score.server.answer import Answer
from score.server.api import MLFLOW, TORCHSERVE
from score.server.routes.table import Asked, Page, Predicts, Row


def ping(asked: Asked) -> Answer:
    """As TorchServe says it; the others read the status alone."""
    ready = asked.models.ready
    return answer.of_json({"status": "Healthy" if ready else "Unhealthy"}, 200 if ready else 503)


def _version(_asked: Asked) -> Answer:
    return Answer(200, {"content-type": "text/plain; charset=utf-8"}, __version__.encode())


_SENT = ("POST", "PUT")  # `curl -T picture.jpg`, as TorchServe's documentation has it, puts

ROWS: tuple[Row, ...] = (
    Predicts("/invocations", "Predictions for a table, tensors or texts, below `predictions`", MLFLOW),
    Predicts("/predictions/{model}", "Predictions, as /score has them", TORCHSERVE, _SENT),
    Predicts("/predictions/{model}/{version}", "Predictions, as /score has them", TORCHSERVE, _SENT),
    Page("/ping", "Whether predictions are answered", ping, MLFLOW, at_once=True),
    Page("/health", "Whether predictions are answered", ping, MLFLOW, at_once=True),
    Page("/version", "This server's version", _version, MLFLOW, at_once=True, kind="text/plain"),
)
