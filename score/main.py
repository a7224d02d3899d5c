"""The Azure ML entry script: `init()` loads the checkpoint, `run()` answers a request."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Azure runs this file from anywhere, as `entry_module`

from azureml_inference_server_http.api.aml_request import rawhttp
from flask import Request, Response

from score import architecture, checksums, conversions, device, digests, http, load, quantised
from score.codecs import registry as codecs
from score.diagnosis import started
from score.formats import _integrity as integrity
from score.formats.registry import open_checkpoint
from score.model_dir import find_checkpoint
from score.observing import Exchange
from score.served import Served
from score.settings import Settings

served: Served


def load_model(settings: Settings) -> Served:
    """From settings to a model that answers. Raises a `LoadError` that says what is wrong."""
    found = find_checkpoint(settings)
    with digests.kept(), integrity.checked():
        checksums.verify(found.path, found.root)
        contents = open_checkpoint(found.path, settings.read, found.format)
        weights = quantised.weights_of(contents, settings.weights)
        design = architecture.find(contents, weights, settings)
        weights = conversions.converted(design.skeleton, weights)
        alignment = architecture.match(design, weights, settings.prefix)
        where = device.choose(settings.device, weights.nbytes if weights else 0)
        module, report = load.load(contents, weights, design, alignment, where)
    return Served(module, report, settings, design.inputs, contents.path)


def init() -> None:
    global served
    served = started(load_model)
    http.take_over_routes(served, run)


@rawhttp  # type: ignore[misc]
def run(request: Request) -> Response:
    return http.exchanged(request, served, answer)


def answer(request: Request, exchange: Exchange) -> Response:
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
