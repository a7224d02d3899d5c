"""The Azure ML entry script: `init()` loads the checkpoint, `run()` answers a request."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Azure runs this file from anywhere, as `entry_module`

from azureml_inference_server_http.api.aml_request import rawhttp
from flask import Request, Response

from score.architectures import key_conversions, resolve
from score.codecs import registry as codecs
from score.formats._io import integrity
from score.formats.registry import open_checkpoint
from score.inference import device, load
from score.inference.predictor import Predictor
from score.server import http
from score.server.metrics import RequestRecord
from score.server.startup import started
from score.settings import Settings
from score.weights import checksums, hashing, quantised
from score.weights.locate import find_checkpoint

served: Predictor


def load_model(settings: Settings) -> Predictor:
    """From settings to a model that answers. Raises a `LoadError` that says what is wrong."""
    found = find_checkpoint(settings)
    with hashing.kept(), integrity.checked():
        checksums.verify(found.path, found.root)
        contents = open_checkpoint(found.path, settings.read, found.format)
        weights = quantised.weights_of(contents, settings.weights)
        design = resolve.find(contents, weights, settings)
        weights = key_conversions.converted(design.skeleton, weights)
        alignment = resolve.match(design, weights, settings.prefix)
        where = device.choose(settings.device, weights.nbytes if weights else 0)
        module, report = load.load(contents, weights, design, alignment, where)
    return Predictor(module, report, settings, design.inputs, contents.path)


def init() -> None:
    global served
    served = started(load_model)
    http.take_over_routes(served, run)


@rawhttp  # type: ignore[misc]
def run(request: Request) -> Response:
    return http.exchanged(request, served, answer)


def answer(request: Request, exchange: RequestRecord) -> Response:
    """A POST's predictions. Raises a `RequestError` where there are none."""
    with http.body_of(request, served.settings) as body:
        codec = codecs.choose(body)
        exchange.codec = codec.NAME
        decoded = codec.decode(body)
        top_k = http.top_k(request, decoded)
        exchange.inputs = served.taken(decoded)
        exchange.answered(*served.batcher.submit(exchange.inputs))
        encoder = codecs.for_answer(codec, request.headers.get("Accept"), labelled=top_k is not None)
        return http.answer(encoder.encode(served.given(exchange.outputs, top_k), decoded), request)
