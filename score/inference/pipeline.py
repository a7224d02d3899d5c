"""The two ways through the product: from settings to a model, and from a request's body to an answer's.

Whoever serves, predicts, checks or scores in batches calls these; the steps of `infer` are apart so that a server can
do each where it belongs: decoding large bodies elsewhere, and waiting for the model without a thread.
"""

import contextlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import orjson

from score import log
from score.architectures import flat_parameters, key_conversions, on_graph, resolve
from score.architectures.meta_init import Architecture, Complete, Skeleton
from score.codecs import oip_v2, openai_embeddings
from score.codecs import registry as codecs
from score.codecs.base import Body, Codec, Decoded, Encoded, Items
from score.codecs.json_dialects import WRAPPED
from score.errors import (
    AdapterUnsupported,
    ArchitectureBroken,
    ClassNotImportable,
    LoadError,
    MalformedFile,
    ModelNotForRoute,
    Uninitialised,
    UnsupportedFormat,
    VersionTooOld,
    WeightsMismatch,
)
from score.formats._io import integrity
from score.formats.base import Checkpoint, DescribedWeights, HfConfig
from score.inference import adapters_beside, device, hooks, load, sharing
from score.inference.batching.ticket import Pass
from score.inference.predictor import Predictor
from score.inference.preprocess import labels
from score.inference.running import EAGER
from score.inference.tuning import apply
from score.settings import Settings
from score.weights import hashing, versions
from score.weights.lora import Lora
from score.weights.opened import Opened, open_weights
from score.weights.select import Candidate

_PLAIN_JSON = ("json", "items")  # codecs of JSON that a model's own `preprocess` reads itself
_SAY_WHO = (oip_v2.NAME, openai_embeddings.NAME)  # codecs whose answers name the model
# Errors that another version of something could explain.
_VERSIONS_MATTER = (
    *(ArchitectureBroken, ClassNotImportable, MalformedFile, Uninitialised),
    *(UnsupportedFormat, VersionTooOld, WeightsMismatch),
)


def load_model(settings: Settings, *, among_others: bool = False) -> Predictor:
    """From settings to a model that answers; `among_others`, with a base model that it may share with them. Raises a
    `LoadError` that says what is wrong."""
    apart = settings.adapters == "beside" or (among_others and settings.adapters == "auto")
    with hashing.kept(), integrity.checked(settings.verify):
        opened = open_weights(settings)
        checkpoint, weights = opened.checkpoint, opened.weights
        try:
            architecture = resolve.find(checkpoint, weights, settings)
            base = sharing.Base.of(checkpoint, weights) if apart else sharing.NOTHING
            weights, beside = _adapted(architecture, checkpoint, weights, settings, apart=apart)
            alignment = None
            if isinstance(architecture, Complete):
                weights = opened.chosen  # which computes with its weights as they are
            elif weights is not None:
                alignment = resolve.match(architecture, weights, settings.prefix)
            where = device.choose(settings.device, weights.nbytes if weights else 0)
            module, report = load.load(checkpoint, weights, architecture, alignment, where, base)
            report = adapters_beside.attached(module, beside, report)
        except _VERSIONS_MATTER as error:
            _add_versions(error, checkpoint.metadata)
            raise
    inputs = architecture.inputs if isinstance(architecture, Skeleton) else None
    described = on_graph.described_by(checkpoint)
    if isinstance(checkpoint, DescribedWeights) and isinstance(checkpoint.model, HfConfig):
        described = checkpoint.model
    home = described.folder if described else None
    own = hooks.of(getattr(architecture, "home", "") or hooks.module_of(module), settings.architecture)
    predictor = Predictor(module, report, settings, inputs, checkpoint.neighbours, home, checkpoint.beside, own)
    running = apply.applied(predictor, checkpoint.origin)
    if running is EAGER:
        return predictor
    log.info("the model is run by %s", running)
    predictor.close()
    return replace(predictor, running=running)


def weights_of(settings: Settings, opened: Opened) -> Candidate | None:
    """A checkpoint's weights under their own names; with an adapter's in them, or out of FSDP's flat parameters, under
    the names that the model's class has for them. Raises a `LoadError`."""
    weights = opened.weights
    if not opened.checkpoint.adapters and (weights is None or not flat_parameters.among(weights.tensors)):
        return weights
    architecture = resolve.find(opened.checkpoint, weights, settings)
    return _adapted(architecture, opened.checkpoint, weights, settings, apart=False)[0]


def _adapted(
    architecture: Architecture, checkpoint: Checkpoint, weights: Candidate | None, settings: Settings, *, apart: bool
) -> tuple[Candidate | None, dict[str, Lora]]:
    """The weights under the names that the class has for them, with all adapters merged, or `apart` where they can run
    beside a layer; as they are for a model that is built as a whole. Raises `AdapterUnsupported`."""
    if not isinstance(architecture, Skeleton) or weights is None:
        if checkpoint.adapters:
            raise AdapterUnsupported(f"{architecture.name} is built as a whole, and takes no adapter")
        return weights, {}
    weights = flat_parameters.apart(architecture.module, weights)
    weights = key_conversions.converted(architecture.module, weights)
    beside: dict[str, Lora] = {}
    for adapter in checkpoint.adapters:
        found = resolve.adapted(architecture, weights, adapter, settings.prefix, apart=apart and not beside)
        weights, beside = found.weights, {**beside, **found.beside}
    return weights, beside


def _add_versions(error: LoadError, metadata: Any) -> None:
    """The versions that the checkpoint says it was written with, and the pins to change."""
    with contextlib.suppress(LoadError):
        error.detail = "\n".join([*error.detail.splitlines(), *versions.advice(metadata)])


class Prepared(NamedTuple):
    """A request, read: its codec, what was decoded, what the model is given, and how many classes of each row were
    asked for; `items` where it is for the model's task."""

    codec: Codec
    decoded: Decoded
    inputs: dict[str, Any]
    top_k: int | None
    items: Items | None = None


@dataclass(frozen=True)
class Inference:
    """An answer: its encoded body, and how it came about."""

    encoded: Encoded
    prepared: Prepared
    outputs: Any
    took: Pass


def infer(predictor: Predictor, body: Body, accept: str | None = None, top_k: Any = None) -> Inference:
    """Answer one request's body. `accept` is an Accept header, `top_k` what was asked for outside of the body.

    Raises a `RequestError`.
    """
    codec = codecs.choose(body)
    prepared = prepare(predictor, codec, decode(predictor, codec, body), top_k)
    outputs, took = run(predictor, prepared)
    return Inference(encode(predictor, prepared, outputs, accept), prepared, outputs, took)


def decode(predictor: Predictor, codec: Codec, body: Body) -> Decoded:
    """What is in a body: as its codec says; the JSON as it is for a model's own `preprocess`. Raises a
    `RequestError`."""
    if predictor.hooks.preprocess is None or codec.NAME not in _PLAIN_JSON:
        return codec.decode(body)
    document = body.document
    key = next((name for name in WRAPPED if isinstance(document, dict) and name in document), "input_data")
    return Decoded(np.empty(0), key, document=document)


def prepare(predictor: Predictor, codec: Codec, decoded: Decoded, top_k: Any = None) -> Prepared:
    """From what a codec has decoded to what the model takes."""
    if codec.NAME in _SAY_WHO:
        decoded = decoded._replace(served=predictor.served)
    if codec.NAME == openai_embeddings.NAME and predictor.runner is None:
        raise ModelNotForRoute(f"{predictor.served.name} does not answer texts with embeddings")
    most = labels.how_many(decoded.top_k, top_k)
    if predictor.runner is not None and (items := predictor.runner.items(decoded)) is not None:
        collected = [_shown(item) for item in items.values] if predictor.settings.collect_data else []
        return Prepared(codec, decoded, {"inputs": np.asarray(collected)} if collected else {}, most, items)
    return Prepared(codec, decoded, predictor.preprocess(decoded), most)


def _shown(item: Any) -> str:
    """An item as the data collector has it; of a file, only that it was one."""
    if isinstance(item, Decoded):
        return f"({item.dialect})"
    return item if isinstance(item, str) else orjson.dumps(item).decode()


def run(predictor: Predictor, prepared: Prepared) -> tuple[Any, Pass]:
    """The model's outputs, or its task's answer, and what the forward pass was; waits for it. Raises a
    `RequestError`."""
    if prepared.items is None:
        return predictor.batcher.submit(prepared.inputs)
    assert predictor.runner is not None
    return predictor.runner(prepared.items, {} if prepared.top_k is None else {"top_k": prepared.top_k})


def encode(predictor: Predictor, prepared: Prepared, outputs: Any, accept: str | None) -> Encoded:
    """From the model's outputs to the answer's body, in the request's own codec unless `accept` rules it out."""
    if prepared.items is not None:
        return codecs.encode_answer(prepared.codec, outputs, prepared.decoded, accept)
    if predictor.hooks.postprocess is not None:
        answer = predictor.hooks.encoded(outputs)
        return codecs.encode_answer(prepared.codec, answer, prepared.decoded, accept, own=True)
    encoder = codecs.for_answer(prepared.codec, accept, labelled=prepared.top_k is not None)
    return encoder.encode(predictor.postprocess(outputs, prepared.top_k), prepared.decoded)
