"""A model's task at work: a request's items, each answered by itself, their forward passes together."""

import base64
import io
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score import log
from score.codecs import audio, image
from score.codecs.base import Decoded, Items
from score.errors import InternalError, InvalidItem, InvalidSetting, MalformedFile, RequestError, ScoreError
from score.formats.base import Beside
from score.inference.batching import lengths
from score.inference.batching.padded import Padded
from score.inference.batching.queue import Limits
from score.inference.batching.rows import Inputs
from score.inference.batching.ticket import Pass
from score.inference.preprocess import files, images, texts
from score.inference.tasks import find, parameters, parts, recordings
from score.inference.tasks.batched import AT_ONCE, Batched
from score.inference.tasks.generation import ImageToText, Text2Text
from score.inference.tasks.of_transformers import Piped, of_single
from score.inference.tasks.question_answering import QuestionAnswering
from score.inference.tasks.sentences import Embeddings, Ranking, ranks
from score.settings import Settings

_PICTURES = frozenset(
    ("image-classification", "object-detection", "image-segmentation", "depth-estimation", "image-to-text",
     "zero-shot-image-classification")
)  # fmt: skip
_RECORDINGS = frozenset(("automatic-speech-recognition", "audio-classification"))
_GENERATE = frozenset(("text-generation", "summarization", "translation", "text2text-generation", "image-to-text"))
_NEEDS_TOKENIZER = (
    frozenset(parameters.BY_TASK)
    - {"audio-classification"}
    - (_PICTURES - {"image-to-text", "zero-shot-image-classification"})
)
_SHORT, _LONG = "A fine day.", "It was a fine day, and nobody thought of the long way home, or of the rain to come."
_ROWS = (4, 16, 64)  # of a pass whose time shows what a token costs


Answer = Callable[[Any, Mapping[str, Any]], Any]
"""From an item and the request's parameters to the answer."""


@dataclass(frozen=True, eq=False)
class TaskRunner:
    """Answers items of a task. `source` says how the task is known."""

    task: str
    source: str
    settings: Settings
    _answer: Answer
    _model: Batched
    _tokenizer: Any
    _rate: int  # samples a second, of recordings
    _threads: ThreadPoolExecutor

    def items(self, decoded: Decoded) -> Items | None:
        """What a request asks of the task; None where it is numbers, which go to the model as they are."""
        if decoded.items is not None:
            return decoded.items
        arrays = decoded.arrays
        if (decoded.dialect == image.NAME and self.task in _PICTURES) or (
            decoded.dialect == audio.NAME and self.task in _RECORDINGS
        ):
            return Items((decoded,), single=True, parameters={})
        if isinstance(arrays, np.ndarray) and arrays.dtype.kind == "U":
            return Items(tuple(arrays.reshape(-1).tolist()), single=False, parameters={})
        return None

    def __call__(self, items: Items, beside: Mapping[str, Any]) -> tuple[Any, Pass]:
        """The answer to a request, and what its forward passes were. `beside` are parameters of the query. Raises a
        `RequestError`."""
        given = parameters.checked(self.task, {**beside, **items.parameters}, self.settings.max_new_tokens)
        values = [self._value(item) for item in items.values]
        if len(values) == 1:
            answered = [self._one(values[0], given)]
        else:
            answered = list(self._threads.map(lambda at: self._placed(at, values[at], given), range(len(values))))
        answers = [jsonable(answer) for answer, _ in answered]
        took = _together([each for _, passes in answered for each in passes], len(values))
        return (of_single(self.task, values[0], answers[0], given) if items.single else answers), took

    def _placed(self, at: int, value: Any, given: Mapping[str, Any]) -> tuple[Any, list[Pass]]:
        """One of several items: what is wrong with it says which it is."""
        try:
            return self._one(value, given)
        except RequestError as error:
            if error.status >= 429:  # not its own fault
                raise
            raise type(error)(f"item {at}: {error.message}", hint=error.hint) from error

    def _one(self, value: Any, given: Mapping[str, Any]) -> tuple[Any, list[Pass]]:
        try:
            return self._answer(value, given), self._model.taken()
        except ScoreError:
            raise
        except Exception as error:  # transformers raises anything on an item that it can't take
            said = str(error).strip().splitlines()
            raise InvalidItem(f"{self.task}: {type(error).__name__}: {said[0][:300] if said else ''}") from error

    def _value(self, item: Any) -> Any:
        """An item as the task takes it: a picture as Pillow has it, a recording at the model's rate, anything else as
        it came."""
        if self.task in _RECORDINGS:
            found = item if isinstance(item, Decoded) else audio.decode(files.of_item(item, "a recording"))
            assert isinstance(found.arrays, np.ndarray)
            return recordings.made(found.arrays, found.asked, self._rate, self.settings.max_audio_seconds)
        if self.task not in _PICTURES:
            if files.is_file(item):
                raise InvalidItem(f"{self.task} takes texts, and this is a file")
            if isinstance(item, (str, dict)) or (isinstance(item, list) and self.task == "text-ranking"):
                texts.refuse_long(item, self.settings.max_text_characters)
                return item
            raise InvalidItem(f"{self.task} takes texts, or objects with texts")
        from PIL import Image

        found = item if isinstance(item, Decoded) else image.decode(files.of_item(item, "a picture"))
        assert isinstance(found.arrays, np.ndarray)
        images.refuse_large(found.arrays, self.settings.max_image_pixels)
        return Image.fromarray(found.arrays)

    def warm_up(self) -> None:
        """Answer one made-up item, so that the first real one pays for no lazy set-up and what does not work shows;
        then find out whether texts can be padded. Raises a `RequestError` where it is refused."""
        start = time.perf_counter()
        self(self.made_up(), {})
        self.try_padding()
        log.info("the task is %s, by %s; warmed up in %.1f ms", self.task, self.source, _since(start))

    def choose_cores(self) -> None:
        """Find out with how many cores a short text is answered soonest, where texts are padded. Raises as
        `Batcher.submit`."""
        if self._model.layout.pads:
            self._model.batcher.choose_cores(self._answer.tokens(_SHORT))  # type: ignore[attr-defined]

    def made_up(self) -> Items:
        """An item that the task takes, and the parameters that it can't do without."""
        return Items((_made_up(self.task, self._tokenizer),), single=True, parameters=_given(self.task))

    def try_padding(self) -> None:
        """Find out whether texts of different lengths can be one padded batch: from two made-up ones, alone and
        together."""
        tokens = getattr(self._answer, "tokens", None)
        layout = self._model.layout
        if tokens is None or not layout.values or self.task in ("text-generation", *_PICTURES, *_RECORDINGS):
            return
        try:
            batch = [tokens(_SHORT), tokens(_LONG)]
            alone = [self._model.batcher.submit(inputs)[0] for inputs in batch]
            layout.learn(batch[0], batch[1], (alone[0], alone[1]))
            layout.pads = True
            together, _ = self._model.batcher.submit(layout.join(batch))
            layout.pads = layout.agrees(together, batch, alone, self._model.tolerance)
            if layout.pads:
                layout.cost = self._pass_cost(*batch)
        except ScoreError as error:
            layout.pads = False
            log.warning("%s: a made-up request was refused: %s", self.task, error.message)
            return
        self._model.batcher.separable = True if layout.pads else None
        if layout.pads:
            log.info("texts are padded into batches; a pass costs as much as %.0f tokens of it", layout.cost)
        else:
            log.info("texts of different lengths are answered apart")

    def _pass_cost(self, short: Inputs, long: Inputs) -> float:
        """As `lengths.pass_cost` has it, of a short text and of as many long ones as take clearly longer."""
        layout, batcher = self._model.layout, self._model.batcher
        few, length = layout.length(short), layout.length(long)
        tried = [rows for rows in _ROWS if rows <= batcher.most_rows]
        if few is None or length is None or not tried:
            return lengths.AT_FIRST
        seconds = batcher.quickest(short)
        many, longer = 0, 0.0
        for rows in tried:
            many, longer = rows * length, batcher.quickest(layout.join([long] * rows))
            if longer > 2 * seconds:
                break
        return lengths.pass_cost(few, seconds, many, longer)

    def close(self) -> None:
        """End its threads, once what was submitted has been answered."""
        self._model.batcher.close()
        self._threads.shutdown(wait=False)

    def card(self) -> dict[str, Any]:
        """As the model card shows it."""
        return {
            "name": self.task,
            "source": self.source,
            "takes": _takes(self.task),
            "parameters": sorted(parameters.BY_TASK[self.task]),
            "padding": self._model.layout.pads,
        }

    def example(self) -> dict[str, Any] | None:
        """A request's body that the task answers; None for pictures and recordings, which are files."""
        if self.task in _PICTURES | _RECORDINGS:
            return None
        given = _given(self.task)
        item = _made_up(self.task, self._tokenizer)
        return {"inputs": item, "parameters": given} if given else {"inputs": item}


def of(
    module: torch.nn.Module,
    name: str,
    folder: Path,
    beside: Beside,
    settings: Settings,
    limits: Limits,
    tolerance: float,
    *,
    embeds: bool,
) -> TaskRunner | None:
    """The task of a model of transformers, whose class has a `name`; None where there is none, or is not to be.
    `embeds` says that sentence-transformers wrote the folder. Raises `InvalidSetting` or `MalformedFile`."""
    said, source = settings.task, "SCORE_TASK"
    if said:
        task: str | None = find.named(said, source)
    elif known := find.known(beside.task):
        task, source = known, "MLmodel"
    else:
        reads = texts.is_there(beside.tokenizer or folder)
        task = find.of_class(name, embeds=embeds, ranks=ranks(folder), reads=reads)
        source = "the model's class"
    if task is None or task == find.TENSORS:
        return None
    can: Any = getattr(module, "can_generate", None)
    if task in _GENERATE and can is not None and not can():
        if said:
            raise InvalidSetting(f"SCORE_TASK is {task!r}, and {name} as a graph of one pass generates nothing")
        return None
    found = parts.read(folder, beside)
    lacking = task in _NEEDS_TOKENIZER and found.tokenizer is None
    unseen = (task in _PICTURES and found.image_processor is None) or (
        task in _RECORDINGS and found.feature_extractor is None
    )
    if lacking or unseen:
        if said:
            raise MalformedFile(f"{folder.name} has no {'tokenizer' if lacking else 'processor'} for {task}")
        return None
    model = Batched(module, limits, tolerance, Padded(_padding(found.tokenizer)))
    return TaskRunner(
        task, source, settings, _answer(task, model, found), model, found.tokenizer,
        getattr(found.feature_extractor, "sampling_rate", 16_000),
        ThreadPoolExecutor(AT_ONCE, thread_name_prefix="task"),
    )  # fmt: skip


def _answer(task: str, model: Batched, beside: parts.Parts) -> Answer:
    if task in ("summarization", "translation", "text2text-generation"):
        return Text2Text(task, model, beside)
    own: dict[str, Callable[[Batched, parts.Parts], Answer]] = {
        "question-answering": QuestionAnswering,
        "image-to-text": ImageToText,
        "sentence-embeddings": Embeddings,
        "text-ranking": Ranking,
    }
    return own[task](model, beside) if task in own else Piped(task, model, beside)


def _takes(task: str) -> str:
    """What an item is: `text`, `question` and context, `ranking` of texts, `picture` or `recording`."""
    if task in _PICTURES:
        return "picture"
    if task in _RECORDINGS:
        return "recording"
    return {"question-answering": "question", "text-ranking": "ranking"}.get(task, "text")


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def _made_up(task: str, tokenizer: Any) -> Any:
    """An item that a task takes."""
    if task in _PICTURES:
        return Decoded(np.full((64, 64, 3), 128, np.uint8), image.NAME)
    if task in _RECORDINGS:
        return Decoded(np.sin(np.arange(16_000, dtype=np.float32) / 20), audio.NAME, asked=16_000)
    if task == "question-answering":
        return {"question": "What is it?", "context": _LONG}
    if task == "fill-mask":
        return f"{_SHORT} {tokenizer.mask_token}"
    return {"query": _SHORT, "texts": [_LONG]} if task == "text-ranking" else _SHORT


def _given(task: str) -> dict[str, Any]:
    """The parameters that a task can't do without, or that keep it short."""
    known = parameters.BY_TASK[task]
    if "candidate_labels" in known:
        return {"candidate_labels": ["one", "another"]}
    return {"max_new_tokens": 2} if "max_new_tokens" in known else {}


def _padding(tokenizer: Any) -> dict[str, int]:
    if tokenizer is None or tokenizer.pad_token_id is None or tokenizer.padding_side != "right":
        return {}
    return {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": tokenizer.pad_token_type_id}


def jsonable(value: Any) -> Any:
    """What a task answers with, as JSON has it: pictures as PNG in base64, tensors as lists."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(name): jsonable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(each) for each in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "save") and hasattr(value, "mode"):  # a picture of Pillow's
        out = io.BytesIO()
        value.save(out, format="PNG")
        return base64.b64encode(out.getvalue()).decode("ascii")
    raise InternalError(f"a {type(value).__name__} in a task's answer")


def _together(passes: Sequence[Pass], rows: int) -> Pass:
    """Several passes as one: the longest wait, all the computing, the largest batch."""
    if not passes:
        return Pass(0.0, 0.0, rows, rows, 0)
    return Pass(
        max(each.queued for each in passes),
        sum(each.computed for each in passes),
        rows,
        max(each.batch_rows for each in passes),
        sum(each.passes for each in passes),
    )
