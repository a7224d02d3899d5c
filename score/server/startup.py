"""What the log says at the start: the load report, or why there is none."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, cast

import orjson
import torch

from score.errors import (
    ArchitectureBroken,
    ClassNotImportable,
    LoadError,
    MalformedFile,
    Uninitialised,
    UnsupportedFormat,
    VersionTooOld,
    WeightsMismatch,
    one_line,
)
from score.formats.registry import open_checkpoint
from score.inference import infer_signature, watchdog
from score.inference.confine import confine, limit_memory
from score.inference.predictor import Predictor
from score.settings import Settings
from score.weights import versions
from score.weights.locate import find_checkpoint

log = logging.getLogger("azmlinfsrv.score")

LARGEST_EXAMPLE = 256  # numbers in a command that people paste
_VERSIONS_MATTER = (
    *(ArchitectureBroken, ClassNotImportable, MalformedFile, Uninitialised),
    *(UnsupportedFormat, VersionTooOld, WeightsMismatch),
)


class Unserved:
    """What stands in for a model that could not be loaded: whatever it is asked for, it raises why."""

    def __init__(self, error: LoadError) -> None:
        self.error = error

    def saw(self, exchange: Any) -> None:
        """Nothing is counted where nothing is served."""

    def __getattr__(self, name: str) -> Any:
        raise self.error


def started(load_model: Callable[[Settings], Predictor]) -> Predictor:
    """Load the model, log what was loaded, and warm it up.

    On a `LoadError` the worker ends, with the diagnosis as the last thing that it writes. azmlinfsrv would log a
    traceback and then the folder's tree, and push the diagnosis off the screen, so the process ends here. Where
    `SCORE_ON_LOAD_ERROR=serve`, it stays up instead, and requests are answered with the diagnosis.
    """
    wanted = os.environ.get("SCORE_ON_LOAD_ERROR")  # for an error in the settings themselves
    try:
        settings = Settings.load()
        wanted = settings.on_load_error
        serving = "azureml_inference_server_http.server.routes" in sys.modules
        if serving:
            limit_memory(settings.model_dir)
            watchdog.watch(settings.stuck_after_ms / 1000, watchdog.end_worker)
        served = explained(load_model, settings)
        if serving:  # before the model runs for the first time, and its thread is there
            served.observer.confined = confine(settings)
        _ = served.task  # a wrong recipe is said now, and not to whoever asks first
        tell(served)
    except LoadError as error:
        sys.stdout.flush()  # what was printed before comes before
        log.error("the model can't be served\n\n%s", error.screen())
        if wanted == "serve":
            return cast(Predictor, Unserved(error))
        logging.shutdown()
        os._exit(LoadError.exit_code)  # on 3, gunicorn stops its master instead of forking for ever
    served.warm_up()
    watchdog.ready()
    return served


def explained(load_model: Callable[[Settings], Predictor], settings: Settings) -> Predictor:
    """Load the model. An error that another version could explain gets the versions that the checkpoint says it was
    written with, and the pins to change."""
    try:
        return load_model(settings)
    except _VERSIONS_MATTER as error:
        with contextlib.suppress(LoadError):  # the very error again, from reading the file
            found = find_checkpoint(settings)
            lines = versions.advice(open_checkpoint(found.path, settings.read, found.format).metadata)
            error.detail = "\n".join([*error.detail.splitlines(), *lines])
        raise


def tell(served: Predictor) -> None:
    """Log what was loaded and what it takes; at the end as JSON, for machines."""
    for line in served.report.lines():
        log.info("%s", line)
    log.info("%s", one_line(str(served.signature)))
    log.info("confined by %s", ", ".join(served.observer.confined) or "nothing")
    log.info("load report %s", orjson.dumps(served.report.as_dict(), default=str).decode())
    log.info("try it:\n\n%s\n", curl(served, os.environ.get("SERVER_PORT", "5001")))


def curl(served: Predictor, port: str) -> str:
    """A command to paste that gets a prediction; for large or unknown inputs, one that shows the model card."""
    url = f"http://127.0.0.1:{port}/score"
    spec = served.signature.inputs[0] if len(served.signature.inputs) == 1 else None
    if spec is None or spec.scalar or not served.signature.known:
        return f"curl -s {url}"
    value = infer_signature.synthetic(served.signature)[spec.name]
    assert isinstance(value, torch.Tensor)
    if value.numel() <= LARGEST_EXAMPLE:
        numbers = value.round(decimals=2).numpy() if value.dtype == torch.float32 else value.tolist()
        data = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY).decode()
        return f"curl -s {url} -d '{{\"data\": {data}}}'"
    shape, number = list(value.shape), 0.5 if value.is_floating_point() else 0
    body = f'import json, numpy; print(json.dumps({{"data": numpy.full({shape}, {number}).tolist()}}))'
    return f"python3 -c '{body}' | curl -s {url} -d @-"
