"""A loaded model that answers: what `init()` makes and `run()` uses."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from score import __version__, log
from score.architectures.sentence_encoder import SentenceEncoder
from score.codecs import oip_v2
from score.codecs import registry as codecs
from score.codecs.base import Arrays, Body, Decoded, Records, Served, named
from score.errors import InvalidSetting, ModelRejected, RequestError
from score.formats.base import NOTHING_BESIDE, Beside
from score.inference import dynamic_ranges, given, infer_signature, model_errors, outputs, staging, transformers_inputs
from score.inference.batching.queue import Batcher, Limits
from score.inference.batching.rows import AsGuessed, Rows, same_rows
from score.inference.batching.turns import Turns
from score.inference.hooks import NONE as NO_HOOKS
from score.inference.hooks import Hooks
from score.inference.load import LoadReport
from score.inference.preprocess import labels, tables
from score.inference.preprocess.task import Task
from score.inference.preprocess.task import find as find_task
from score.inference.running import EAGER, Running
from score.inference.signature import Signature, validate
from score.inference.tasks import find as find_name
from score.inference.tasks import runner
from score.inference.tasks.runner import TaskRunner
from score.settings import Settings

LONG_PASS = 0.25  # seconds; larger batches than one that takes as long are not tried at the start


@dataclass(frozen=True, eq=False)
class Predictor:
    """A module on its device, the report of how it was loaded, and what its architecture was registered to take.

    Called with a request's inputs, it answers with arrays.
    """

    module: nn.Module
    report: LoadReport
    settings: Settings
    registered: str | dict[str, str] | None = None
    checkpoint: Path | None = None  # where it was loaded from; `report.path` is that for people
    home: Path | None = None  # the folder of its configuration, where that is another
    beside: Beside = NOTHING_BESIDE
    hooks: Hooks = NO_HOOKS
    turns: Turns | None = None  # of all models in this process, where there are several
    running: Running = EAGER  # how the module is run

    @cached_property
    def signature(self) -> Signature:
        """What the model takes. Where nobody said, this tries the model, so it is found on first use."""
        if self.settings.inputs:
            return infer_signature.find(self.module, self.settings.inputs, "SCORE_INPUTS")
        if self.registered is None and self.beside.takes is not None:
            recorded = infer_signature.find(self.module, self.beside.takes, "MLmodel")
            return infer_signature.of_weights(recorded, infer_signature.float_dtype(self.module))
        if self.registered is None and transformers_inputs.is_one(self.module):
            return transformers_inputs.find(self.module)
        if self.registered is None and (texts := self.task.takes()) is not None:
            return infer_signature.find(self.module, texts, "the tokenizer")
        return infer_signature.find(self.module, self.registered, "registered")

    @cached_property
    def task(self) -> Task:
        """Labels, image recipe and tokenizer, as far as they are known. Raises `InvalidSetting`."""
        words = self.beside.tokenizer or self._folder
        return find_task(self.settings, self._folder, self.report.architecture, self.module, words)

    @cached_property
    def _folder(self) -> Path:
        """Where the model's configuration lies."""
        checkpoint = self.home or self.checkpoint or Path(self.report.path)
        return checkpoint if checkpoint.is_dir() else checkpoint.parent

    @cached_property
    def runner(self) -> TaskRunner | None:
        """What answers texts, pairs and pictures as people expect; None for a model that takes tensors only. Raises
        `InvalidSetting` or `MalformedFile`."""
        name = self.report.architecture
        if not name.startswith("transformers."):
            if self.settings.task not in (None, find_name.TENSORS):
                raise InvalidSetting(f"SCORE_TASK is {self.settings.task!r}, and {name} is no model of transformers")
            return None
        return runner.of(
            self.module, name.rpartition(".")[2], self._folder, self.beside, self.settings, self._limits,
            self._tolerance, embeds=isinstance(self.module, SentenceEncoder),
        )  # fmt: skip

    def __call__(self, inputs: Any, top_k: int | None = None) -> Any:
        """The model's answer to one request: arrays, nested lists, tensors or texts, or several by the names of the
        model's inputs; the first dimension counts rows. Bytes are a request's body as it would be sent: JSON, npy, an
        image.

        An array of outputs, or several by name; with `top_k`, said here or in a body, that many classes for each row,
        as dicts of `label` and `probability`. Calls from several threads share forward passes. Raises a `RequestError`.
        """
        if isinstance(inputs, (bytes, bytearray)):
            body = Body(bytes(inputs))
            decoded = codecs.choose(body).decode(body)
        else:
            decoded = Decoded(given.arrays(inputs, "inputs"), "inputs")
        most = labels.how_many(decoded.top_k, top_k)
        if self.runner is not None and (items := self.runner.items(decoded)) is not None:
            return self.runner(items, {} if most is None else {"top_k": most})[0]
        outputs, _ = self.batcher.submit(self.preprocess(decoded))
        return self.postprocess(outputs, most)

    def preprocess(self, decoded: Decoded) -> dict[str, Any]:
        """A request's arrays, image or texts as the model takes them. Raises a `RequestError`."""
        if self.hooks.preprocess is not None:
            return validate(self.signature, self.hooks.decoded(decoded))
        if decoded.columns:
            return validate(self.signature, tables.of_columns(decoded, self.signature, self.beside.columns))
        return validate(self.signature, self.task.prepared(decoded), declared=decoded.dialect == oip_v2.DIALECT)

    @cached_property
    def served(self) -> Served:
        """What answers say of the model."""
        name, version = self.settings.served_as()
        tokens = self.task.tokenizer.count if self.task.tokenizer is not None else None
        return Served(name, version, self.task.labels, tokens)

    def postprocess(self, outputs: Any, top_k: int | None) -> Any:
        """Outputs as they are, or the likeliest classes of each row where they were asked for. Where labels are known,
        what a detector found has their names beside its numbers."""
        if isinstance(outputs, Records) and self.task.labels:
            outputs = Records([labels.named(row, self.task.labels) for row in outputs.rows])
        return outputs if top_k is None else self.task.top(outputs, top_k)

    def example(self) -> dict[str, Any] | None:
        """The body of a request that the model answers, where one was recorded or the task has one."""
        if self.hooks.example is not None:
            return self.hooks.example  # type: ignore[no-any-return]
        return self.beside.example or (self.runner.example() if self.runner is not None else None)

    @cached_property
    def _order(self) -> list[str]:
        return infer_signature.input_names(self.module)

    @cached_property
    def _device(self) -> torch.device:
        return infer_signature.device_of(self.module)

    @cached_property
    def batcher(self) -> Batcher:
        """What requests are given to: it runs `predict`."""
        lane = staging.lane_to(self._device)
        empty = lane.empty if lane is not None else None
        layout = AsGuessed(self.signature, empty=empty) if self.signature.guessed else Rows(empty=empty)
        begin = partial(staging.begun, lane, self._call, self._explained) if lane is not None else None
        return Batcher(self.predict, self._limits, self._separable(), self._tolerance, layout, begin)

    @property
    def _limits(self) -> Limits:
        settings = self.settings
        rows = min(settings.max_batch, self.running.most_rows or settings.max_batch)
        return Limits(rows, settings.max_queue, settings.scoring_timeout_ms / 1000, self.turns, self.running.threads)

    def close(self) -> None:
        """End what runs for it, once what was submitted has been answered."""
        if "batcher" in self.__dict__:
            self.batcher.close()
        if self.__dict__.get("runner") is not None:
            self.__dict__["runner"].close()

    def predict(self, inputs: dict[str, Any]) -> Arrays:
        """Run the model on validated inputs. Raises `ModelRejected` with what the model said, or `OutOfMemory`."""
        with self._explained():
            return outputs.arrays(self._call(inputs))

    def _call(self, inputs: dict[str, Any]) -> Any:
        return infer_signature.call(self.module, inputs, self._order, self._device)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Around the model: what it raises becomes an error of ours, which says where its inputs were guessed."""
        try:
            with model_errors.as_ours():
                yield
        except ModelRejected as error:
            if self.signature.guessed and error.hint == ModelRejected.hint:
                error.hint = (
                    f"Nothing says what the model takes; by a guess, {', '.join(self._guesses())} "
                    f"({self.signature.source}). Set SCORE_INPUTS to have requests checked."
                )
            raise

    def _guesses(self) -> list[str]:
        required = [spec for spec in self.signature.inputs if spec.required]
        return [f"{spec.name}: {spec}" for spec in required or self.signature.inputs]

    def warm_up(self) -> None:
        """Run one made-up request, so that the first real one pays for no lazy set-up. What keeps it from being
        answered is in `problem`, and in the log."""
        if self.problem is not None:
            log.warning("NO REQUEST HAS BEEN ANSWERED YET: %s", self.problem)
        elif self.runner is not None:
            if self._threads_are_torchs:
                self.runner.choose_cores()
        elif self.signature.known:
            start = time.perf_counter()
            if self._threads_are_torchs:
                self.batcher.choose_cores(infer_signature.synthetic(self.signature))
            self._try_sizes()
            log.info("warmed up in %.1f ms", (time.perf_counter() - start) * 1e3)
        if self.runner is None and self.signature.known and self.batcher.separable is not None:
            log.info("requests are %s", "answered in batches" if self.batcher.separable else "answered one by one")

    @property
    def _threads_are_torchs(self) -> bool:
        return self._device.type == "cpu" and not self.running.own_threads

    @cached_property
    def problem(self) -> str | None:
        """Why no made-up request has been answered, and what to do; None where one has."""
        try:
            if self.runner is not None:  # tensors, which it takes too, are not what people send
                self.runner.warm_up()
                return None
            if self.hooks.preprocess is not None:
                return self._try_hooks()
        except RequestError as error:
            return f"{error.message}. {error.hint}"
        if not self.signature.known:
            return (
                f"what the model takes is not known ({', '.join(self._guesses())}). Set SCORE_INPUTS, such as "
                "float32[N, 3, 224, 224], and start again; or send a request and look"
            )
        return self._tried[1]

    def _try_hooks(self) -> str | None:
        """Answer the example that is beside the model's own `preprocess`."""
        if self.hooks.example is None:
            return "what its preprocess expects is not known. Put `example = {...}`, a request, beside preprocess"
        outputs, _ = self.batcher.submit(self.preprocess(Decoded(np.empty(0), "", document=self.hooks.example)))
        if self.hooks.postprocess is not None:
            self.hooks.encoded(outputs)
        return None

    def _try_sizes(self) -> None:
        """Run batches of all sizes up to the largest, or until one takes long: the batcher learns what they take, the
        libraries below prepare for them, and a lack of memory shows before there are requests."""
        rows, took = 2, 0.0
        while self.batcher.separable and rows <= self.batcher.most_rows and took < LONG_PASS:
            for _ in range(3):
                _, last = self.batcher.submit(infer_signature.synthetic(self.signature, rows))
                took = last.computed
            rows *= 2

    @cached_property
    def _tried(self) -> tuple[Arrays | None, str | None]:
        """What the model answers to one made-up row, or what it said against it; neither where its inputs are not
        known."""
        if not self.signature.known:
            return None, None
        try:
            return self.batcher.submit(infer_signature.synthetic(self.signature))[0], None
        except RequestError as error:
            return None, f"{error.message}. {error.hint}"

    @cached_property
    def outputs(self) -> dict[str, tuple[str, list[int]]]:
        """The dtype and shape of each output for one made-up row; empty where that is not known, or differs from row
        to row."""
        answer, _ = self._tried
        if answer is None or isinstance(answer, Records):
            return {}
        return {name: (str(array.dtype), list(array.shape)) for name, array in named(answer).items()}

    def _separable(self) -> bool | None:
        """Whether the model answers each row of a batch by itself, found out by asking it; None where that can't be
        found out yet."""
        if not self.signature.known:
            return None
        specs = [spec for spec in self.signature.inputs if spec.required and not spec.scalar]
        if not all(spec.shape and spec.shape[0] is None for spec in specs):
            return False  # the number of rows is fixed
        if dynamic_ranges.shared(self.module):
            return False
        pair = infer_signature.synthetic(self.signature, rows=2)
        for value in pair.values():
            if isinstance(value, torch.Tensor) and not value.is_floating_point():
                value[1] = 1  # made-up integers are all zero, and equal rows tell nothing
            elif isinstance(value, torch.Tensor):
                value[1] *= 4  # and rows of one range nothing about a range that they share
        rows = [
            {name: value[at : at + 1] if isinstance(value, torch.Tensor) else value for name, value in pair.items()}
            for at in (0, 1)
        ]
        try:
            return same_rows(self.predict(pair), [self.predict(row) for row in rows], [1, 1], self._tolerance)
        except RequestError:
            return None

    @property
    def _tolerance(self) -> float:
        """How far two answers may be apart that ought to be equal, by the precision of the weights."""
        return infer_signature.tolerance(infer_signature.float_dtype(self.module))

    def card(self) -> dict[str, Any]:
        """What is served: the load report, the signature, the task, and the versions."""
        return {
            "model": self.report.as_dict(),
            "signature": self.signature.as_dict(),
            "backend": self.running.as_dict(),
            "problem": self.problem,
            "task": self.task.card() | (self.runner.card() if self.runner else {}) | {"example": self.example()},
            "versions": {
                "loadstone": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }
