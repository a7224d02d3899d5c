"""The Azure ML entry script: `init()` loads the checkpoint, `run()` answers a request."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Azure runs this file from anywhere, as `entry_module`

from azureml_inference_server_http.api.aml_request import rawhttp
from flask import Request, Response

from score import architecture, checkpoint, device, http, load
from score.codecs import registry as codecs
from score.diagnosis import started
from score.errors import MethodNotAllowed
from score.formats.registry import open_checkpoint
from score.model_dir import find_checkpoint
from score.served import Served
from score.settings import Settings
from score.signature import validate

served: Served


def load_model(settings: Settings) -> Served:
    """From settings to a model that answers. Raises a `LoadError` that says what is wrong."""
    found = find_checkpoint(settings)
    contents = open_checkpoint(found.path, settings.read, found.format)
    weights = checkpoint.weights_of(contents, settings.weights)
    design = architecture.find(contents, weights, settings)
    alignment = architecture.match(design, weights, settings.prefix)
    where = device.choose(settings.device, weights.nbytes if weights else 0)
    module, report = load.load(contents, weights, design, alignment, where)
    return Served(module, report, settings, design.inputs)


def init() -> None:
    global served
    served = started(load_model)
    http.own_the_errors_of_routing()


@rawhttp  # type: ignore[misc]
def run(request: Request) -> Response:
    try:
        if request.method in ("GET", "HEAD"):
            return http.json_answer(served.card())
        if request.method != "POST":
            raise MethodNotAllowed(f"/score does not take {request.method}")
        body = http.read_body(request, served.settings.max_body_mb)
        codec = codecs.choose(http.content_type(request), body)
        decoded = codec.decode(body)
        inputs = validate(served.signature, decoded.arrays)
        return http.answer(codec.encode(served.predict(inputs), decoded))
    except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer it can read
        return http.failure(error)
