"""What the log says at the start: the load report, or why there is none."""

import contextlib
import errno
import logging
import os
import shlex
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import torch

from score import log
from score.codecs import registry as codecs
from score.errors import LoadError, ModelStuck, NoTemporaryFolder, SeveralCheckpoints, WarmUpFailed, one_line
from score.inference import allocator, cores, infer_signature, remedies, watchdog
from score.inference.apart import apart
from score.inference.batching.turns import Turns
from score.inference.confine import confine, limit_memory
from score.inference.pipeline import load_model
from score.inference.predictor import Predictor
from score.server import azmlinfsrv
from score.server import models as several
from score.server.metrics import Observer
from score.server.models import Models
from score.server.service import Service
from score.settings import LOCAL, Settings

LARGEST_EXAMPLE = 256  # numbers in a command that people paste
LONGEST_EXAMPLE = 4096  # characters of it


class Unserved:
    """What stands in for a model that could not be loaded: whatever it is asked for, it raises why."""

    def __init__(self, error: LoadError) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        raise self.error


def started() -> Models:
    """Load the model, log what was loaded, and warm it up; of several, find them.

    On a `LoadError` the worker ends, with the diagnosis as the last thing that it writes. azmlinfsrv would log a
    traceback and then the folder's tree, and push the diagnosis off the screen, so the process ends here. Where
    `SCORE_ON_LOAD_ERROR=serve`, it stays up instead, and requests are answered with the diagnosis.
    """
    wanted = os.environ.get("SCORE_ON_LOAD_ERROR")  # for an error in the settings themselves
    use_cores()
    try:
        settings = Settings.load()
        wanted = settings.on_load_error
        models = _found(settings)
        codecs.codecs()  # imported now, and not by the first request
    except LoadError as error:
        sys.stdout.flush()  # what was printed before comes before
        log.error("the model can't be served\n\n%s%s", error.screen(), _mended(error))
        if wanted == "serve":
            return Models.of_one(Service(cast(Predictor, Unserved(error)), Observer(log_requests=False)))
        logging.shutdown()
        os._exit(LoadError.exit_code)  # on 3, gunicorn stops its master instead of forking for ever
    port = os.environ.get("SERVER_PORT", "5001")
    log.info("%s", invitation(models.only.predictor, port) if models.only else invitation_of_several(models, port))
    _ready.set()
    return models


def use_cores() -> None:
    """Compute with the cores that this worker may really use; OMP_NUM_THREADS goes over that."""
    workers = os.environ.get("WORKER_COUNT", "1")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores.threads(int(workers) if workers.isdigit() and int(workers) else 1))
    log.info(
        "computing with %d threads (%d cores%s); the memory allocator is %s",
        torch.get_num_threads(), cores.physical(), _quota(), allocator.loaded(),
    )  # fmt: skip


def _quota() -> str:
    allowed = cores.quota()
    return f", a quota of {allowed:.4g}" if allowed is not None else ""


def _mended(error: LoadError) -> str:
    """What a person can paste where the same files lie, as the command line shows it; empty where nothing is known."""
    with contextlib.suppress(Exception):  # the error itself is what counts
        settings = Settings.load()
        if (found := remedies.find(error, settings)) is not None and settings.model_dir is not None:
            return f"\nTry:\n\n{remedies.command(('score', 'check'), settings.model_dir, (), found)}"
    return ""


def require_an_answer(served: Predictor) -> None:
    """Raise `WarmUpFailed` for a model that has answered nothing, where that is not to be served."""
    if served.problem is not None and served.settings.require_warm_up:
        raise WarmUpFailed(f"{served.report.architecture} is loaded, and answers nothing: {served.problem}")


def _found(settings: Settings) -> Models:
    """The only checkpoint, loaded; or several, by name."""
    require_temporary_folder()
    if azmlinfsrv.serving():
        limit_memory(settings.model_dir)
        watchdog.watch(settings.stuck_after_ms / 1000, _end_worker)
    if not settings.models:
        try:
            predictor = apart(lambda: load_model(settings))
        except SeveralCheckpoints as error:  # each is served by its name, so that nothing has to be guessed
            log.info("%s: each is served by its name", error.message)
        else:
            confined = _confined(settings)
            return Models.of_one(apart(lambda: _service(predictor, confined)))
    turns, confined = Turns(), _confined(settings)

    def load(own: Settings, observer: Observer) -> Service:
        return apart(lambda: _service(replace(load_model(own, among_others=True), turns=turns), confined, observer))

    models = several.find(settings, load)
    if settings.load_models == "at_start":
        models.load_all()
    return models


def _confined(settings: Settings) -> tuple[str, ...]:
    """Give up what serving does not need, before a model runs for the first time, and its thread is there."""
    return confine(settings) if azmlinfsrv.serving() else ()


def _service(predictor: Predictor, confined: tuple[str, ...], observer: Observer | None = None) -> Service:
    """A loaded model, told of in the log, and warmed up."""
    _ = predictor.task, predictor.runner  # a wrong recipe is said now, and not to whoever asks first
    service = Service.of(predictor, confined, observer)
    tell(service)
    predictor.warm_up()
    require_an_answer(predictor)
    return service


def require_temporary_folder() -> None:
    """Raise `NoTemporaryFolder` where nothing can be written to it; libraries need it in the middle of their work, and
    say less."""
    folder = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # only to say which
    try:
        folder = tempfile.gettempdir()
        if (wanted := os.environ.get("TMPDIR")) and Path(wanted).resolve() != Path(folder).resolve():
            folder = wanted
            os.stat(wanted)  # noqa: PTH116  # what is wrong with it
            raise PermissionError(errno.EACCES, "nothing can be written there")
        with tempfile.TemporaryFile() as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise NoTemporaryFolder(f"nothing can be written to {folder}: {error.strerror}") from None


_ready = threading.Event()  # the worker has started, and answered its first request
STOPPED = 1  # a worker's exit code; with 3, gunicorn would end with its worker


def _end_worker(error: ModelStuck) -> None:
    """Log why, and end this process at once: a thread in a forward pass can't be interrupted. Before the worker was
    ready, another would only be stuck again: then gunicorn ends too."""
    log.critical("the worker ends\n\n%s", error.screen())
    for handler in log.handlers or logging.getLogger("azmlinfsrv").handlers:
        handler.flush()
    sys.stdout.flush()
    os._exit(STOPPED if _ready.is_set() else error.exit_code)


def tell(service: Service) -> None:
    """Log what was loaded and what it takes; at the end as JSON, for machines."""
    served = service.predictor
    for line in served.report.lines():
        log.info("%s", line)
    log.info("%s", one_line(str(served.signature)))
    log.info("confined by %s", ", ".join(service.confined) or "nothing")
    if LOCAL not in os.environ:
        log.info("load report %s", orjson.dumps(served.report.as_dict(), default=str).decode())


def invitation(served: Predictor, port: str) -> str:
    """Where the page is, and a request: the last thing that a start says."""
    said = "ready to serve" if served.problem is None else f"loaded, and NOT KNOWN TO WORK: {served.problem}"
    return f"{said}\n\nopen http://127.0.0.1:{port}/score\n{curl(served, port)}\n"


def invitation_of_several(models: Models, port: str) -> str:
    """The same for several models: their names, and where each answers."""
    lines = [f"  {each['name']}  {each['reason']}".rstrip() for each in models.index()]
    names = "\n".join(lines)
    address = f"http://127.0.0.1:{port}/score"
    return f"ready to serve {len(lines)} models\n{names}\n\nopen {address}\ncurl -s {address}/{models.names[0]}\n"


def curl(served: Predictor, port: str) -> str:
    """A command to paste that gets a prediction; for large or unknown inputs, one that shows the model card."""
    url = f"http://127.0.0.1:{port}/score"
    if (example := served.example()) and len(body := orjson.dumps(example).decode()) <= LONGEST_EXAMPLE:
        return f"curl -s {url} -d {shlex.quote(body)}"
    if served.runner is not None:
        name = "recording.wav" if served.runner.card()["takes"] == "recording" else "picture.png"
        return f"curl -s {url} --data-binary @{name}"
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
