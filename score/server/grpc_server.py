"""The Open Inference Protocol over gRPC, where SCORE_GRPC_PORT names a port: the same models, batches and errors.

Specification: kserve/open-inference-protocol, specification/protocol/inference_grpc.md.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from score import __version__, log
from score.codecs import oip_v2
from score.codecs import registry as codecs
from score.codecs._oip_tensors import (
    BF16,
    BYTES,
    NUMPY,
    Item,
    byte_strings,
    datatype,
    numbers,
    size_of,
    to_bytes,
)
from score.codecs.base import Decoded
from score.errors import InternalError, InvalidTensor, NotSupported, PortUnusable, ScoreError
from score.inference import pipeline
from score.inference.predictor import Predictor
from score.server.api import OIP_V2
from score.server.grpc_messages import PACKAGE, message
from score.server.models import READY, Models
from score.server.prediction import Prediction
from score.server.routes import oip_v2 as rest
from score.server.service import Head, new_id

SERVICE = f"{PACKAGE}.GRPCInferenceService"
THREADS = 64  # requests at a time; each waits for the model in one
GRACE = 25.0  # seconds to answer what was asked, once the server has been told to end
_STATUS = {
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", BYTES: "bytes_contents",
}  # fmt: skip
_CONFIG_KINDS = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "STRING", BF16),
)  # numbered from 1 in Triton's model configuration


class GrpcServer:
    """Listens from the moment it is made, before the process gives up opening sockets; answers once started."""

    def __init__(self, port: int, most_bytes: int) -> None:
        options = [
            ("grpc.max_receive_message_length", most_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 1),
        ]
        self._server = grpc.server(ThreadPoolExecutor(THREADS, thread_name_prefix="grpc"), options=options)
        for address in (f"[::]:{port}", f"0.0.0.0:{port}"):
            try:
                self.port = self._server.add_insecure_port(address)
                return
            except RuntimeError:
                continue
        raise PortUnusable(f"nothing can listen on SCORE_GRPC_PORT {port}")

    def start(self, models: Models) -> None:
        self._server.add_generic_rpc_handlers((_handlers(models),))
        self._server.start()
        log.info("gRPC on port %d", self.port)

    def stop(self) -> None:
        """Answer what was asked, and end."""
        self._server.stop(GRACE).wait()


def _handlers(models: Models) -> Any:
    unary: dict[str, Callable[[Models, Any], Any]] = {
        "ServerLive": lambda _models, _asked: message("ServerLiveResponse")(live=True),
        "ServerReady": _server_ready,
        "ServerMetadata": _server_metadata,
        "ModelReady": _model_ready,
        "ModelMetadata": _model_metadata,
        "ModelConfig": _model_config,
        "ModelStatistics": _model_statistics,
        "RepositoryIndex": _index,
        "RepositoryModelLoad": _load,
        "RepositoryModelUnload": _unload,
        "TraceSetting": _trace_setting,
        "LogSettings": _log_settings,
        **{
            f"{kind}SharedMemory{call}": answer for kind in ("System", "Cuda") for call, answer in _memory(kind).items()
        },
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            _guarded(models, call),
            request_deserializer=message(f"{name}Request").FromString,
            response_serializer=_serialised,
        )
        for name, call in unary.items()
    }
    read = message("ModelInferRequest").FromString
    handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(_infer_handler(models), read, _serialised)
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(_stream_handler(models), read, _serialised)
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _serialised(answer: Any) -> bytes:
    return bytes(answer.SerializeToString())


def _guarded(models: Models, call: Callable[[Models, Any], Any]) -> Callable[[Any, Any], Any]:
    """What is raised becomes the call's status."""

    def handle(asked: Any, context: Any) -> Any:
        try:
            return call(models, asked)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets a status that it can read
            _abort(context, error)

    return handle


def _abort(context: Any, error: BaseException) -> None:
    if not isinstance(error, ScoreError):
        log.error("a bug in the server", exc_info=error)
        error = InternalError(f"{type(error).__name__} while answering the request")
    context.abort(_STATUS.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), _text(error))


def _text(error: ScoreError) -> str:
    return str(OIP_V2.said(error, "")["error"])


def _infer_handler(models: Models) -> Callable[[Any, Any], Any]:
    def handle(asked: Any, context: Any) -> Any:
        found = _infer(models, asked, context)
        if isinstance(found, BaseException):
            _abort(context, found)
        return found

    return handle


def _stream_handler(models: Models) -> Callable[[Any, Any], Iterator[Any]]:
    def handle(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for asked in requests:
            found = _infer(models, asked, context)
            if isinstance(found, ScoreError):
                yield message("ModelStreamInferResponse")(error_message=_text(found))
            elif isinstance(found, BaseException):
                _abort(context, found)
            else:
                yield message("ModelStreamInferResponse")(infer_response=found)

    return handle


def _infer(models: Models, asked: Any, context: Any) -> Any:
    """The response, or the exception that there is instead; counted and logged as any other request."""
    headers = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
    head = Head.of("POST", b"", headers, asked.id or new_id())
    response = None
    with Prediction(models, head, OIP_V2) as prediction:
        record = prediction.record
        prediction.share.hold(asked.ByteSize(), models.settings)
        service = prediction.service = models.take(asked.model_name)
        models.state(service.name, asked.model_version)
        codec = codecs.codecs()[oip_v2.NAME]
        record.codec = "oip-v2-grpc"
        prepared = pipeline.prepare(service.predictor, codec, decoded(asked))
        record.inputs = prepared.inputs
        record.answered(*pipeline.run(service.predictor, prepared))
        response = _response(service.predictor, prepared, record.outputs, asked.id)
        prediction.done()
    return response if prediction.error is None else prediction.error


def decoded(asked: Any) -> Decoded:
    """A request as the codec of the REST interface has it. Raises what that one's `decode` does."""
    raw = list(asked.raw_input_contents)
    if raw and len(raw) != len(asked.inputs):
        raise InvalidTensor(f"there are {len(asked.inputs)} inputs, and raw contents of {len(raw)}")
    arrays: dict[str, np.ndarray] = {}
    texts: dict[str, list[Item]] = {}
    for at, tensor in enumerate(asked.inputs):
        if tensor.name in arrays or tensor.name in texts:
            raise InvalidTensor(f"the input {tensor.name!r} comes twice")
        shape = list(tensor.shape)
        count = size_of(tensor.name, tensor.datatype, shape)
        if tensor.datatype == BYTES:
            found = byte_strings(tensor.name, count, memoryview(raw[at])) if raw else tensor.contents.bytes_contents
            if len(found) != count:
                raise InvalidTensor(f"{tensor.name}: the shape has {count} texts, the data {len(found)}")
            texts[tensor.name] = [oip_v2.text_or_file(each) for each in found]
        elif raw:
            arrays[tensor.name] = numbers(tensor.name, tensor.datatype, shape, memoryview(raw[at]))
        else:
            arrays[tensor.name] = _from_contents(tensor, shape)
    if not asked.inputs:
        raise InvalidTensor("the request has no inputs")
    parameters = _parameters(asked)
    wanted = oip_v2.Asked(identifier=asked.id or None, binary=True, outputs=None)
    if asked.outputs:
        wanted["outputs"] = {
            each.name: oip_v2.wanted({"name": each.name, "parameters": _parameters(each)}, default=True)
            for each in asked.outputs
        }
    return oip_v2.decoded(arrays, texts, wanted, oip_v2.of_model(parameters))


def _from_contents(tensor: Any, shape: list[int]) -> np.ndarray:
    if tensor.datatype not in _CONTENTS:
        raise InvalidTensor(f"{tensor.name}: {tensor.datatype} comes as raw contents only")
    values = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    dtype = np.dtype(NUMPY[tensor.datatype])
    found = np.array(values, dtype=np.int64 if dtype.kind in "iu" and dtype.itemsize < 4 else dtype)
    if found.size != math.prod(shape):
        raise InvalidTensor(f"{tensor.name}: the shape {shape} has {math.prod(shape)} values, the data {found.size}")
    cast = found.astype(dtype)
    if not np.array_equal(cast, found, equal_nan=dtype.kind == "f"):
        raise InvalidTensor(f"{tensor.name}: the data are not all {tensor.datatype}")
    return cast.reshape(shape)


def _parameters(of: Any) -> dict[str, Any]:
    return {name: getattr(value, kind) for name, value in of.parameters.items() if (kind := value.WhichOneof("choice"))}


def _response(predictor: Predictor, prepared: pipeline.Prepared, outputs: Any, identifier: str) -> Any:
    """Outputs as raw contents, which all clients read."""
    if prepared.items is not None:
        found: Any = oip_v2.as_tensor(outputs)
    elif predictor.hooks.postprocess is not None:
        found = oip_v2.as_tensor(predictor.hooks.encoded(outputs))
    elif prepared.top_k is not None:
        found = oip_v2.as_tensor(predictor.postprocess(outputs, prepared.top_k))
    else:
        found = predictor.postprocess(outputs, None)
    served = predictor.served
    response = message("ModelInferResponse")(model_name=served.name, model_version=served.version, id=identifier)
    for name, values, _ in oip_v2.chosen(found, prepared.decoded):
        response.outputs.add(name=name, datatype=datatype(values.dtype.str), shape=values.shape)
        response.raw_output_contents.append(to_bytes(np.ascontiguousarray(values)))
    return response


def _server_ready(models: Models, _asked: Any) -> Any:
    return message("ServerReadyResponse")(ready=models.ready)


def _server_metadata(_models: Models, _asked: Any) -> Any:
    return message("ServerMetadataResponse")(name="loadstone", version=__version__, extensions=rest.EXTENSIONS)


def _model_ready(models: Models, asked: Any) -> Any:
    state = models.state(asked.name)
    wrong_version = asked.version and asked.version != state["version"]
    return message("ModelReadyResponse")(ready=state["state"] == READY and not wrong_version)


def _model_metadata(models: Models, asked: Any) -> Any:
    with models.using(asked.name) as service:
        models.state(service.name, asked.version)
        return message("ModelMetadataResponse")(**rest.metadata(service))


def _model_config(models: Models, asked: Any) -> Any:
    with models.using(asked.name) as service:
        models.state(service.name, asked.version)
        config = rest.config(service)
    for tensor in (*config["input"], *config["output"]):
        tensor["data_type"] = _CONFIG_KINDS.index(tensor["data_type"].removeprefix("TYPE_")) + 1
    return message("ModelConfigResponse")(config=config)


def _model_statistics(models: Models, asked: Any) -> Any:
    observers = models.observers()
    names = [asked.name] if asked.name else list(observers)
    versions = {name: models.state(name)["version"] for name in names}
    response = message("ModelStatisticsResponse")()
    for name in names:
        stats = observers[name].as_triton()
        del stats["batch_stats"]
        response.model_stats.add(name=name, version=versions[name], **stats)
    return response


def _index(models: Models, asked: Any) -> Any:
    listed = [each for each in models.index() if each["state"] == READY or not asked.ready]
    return message("RepositoryIndexResponse")(models=listed)


def _load(models: Models, asked: Any) -> Any:
    models.load(asked.model_name)
    return message("RepositoryModelLoadResponse")()


def _unload(models: Models, asked: Any) -> Any:
    models.unload(asked.model_name)
    return message("RepositoryModelUnloadResponse")()


def _trace_setting(models: Models, asked: Any) -> Any:
    if asked.model_name:
        models.state(asked.model_name)
    known = {name: [value] if isinstance(value, str) else list(value) for name, value in rest.TRACE.items()}
    rest.refuse_changed(known, {name: list(each.value) for name, each in asked.settings.items()}, "the trace setting")
    return message("TraceSettingResponse")(settings={name: {"value": values} for name, values in known.items()})


def _log_settings(_models: Models, asked: Any) -> Any:
    wanted = {name: getattr(each, kind) for name, each in asked.settings.items() if (kind := each.WhichOneof("choice"))}
    rest.refuse_changed(rest.LOGGING, wanted, "the log setting")
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return message("LogSettingsResponse")(
        settings={name: {kinds[type(value)]: value} for name, value in rest.LOGGING.items()}
    )


def _memory(kind: str) -> dict[str, Callable[[Models, Any], Any]]:
    """There are no regions of memory that client and server share, and none can be added."""

    def refuse(_models: Models, _asked: Any) -> Any:
        raise NotSupported("shared memory between client and server is not supported")

    def none(call: str) -> Callable[[Models, Any], Any]:
        return lambda _models, _asked: message(f"{kind}SharedMemory{call}Response")()

    return {"Status": none("Status"), "Unregister": none("Unregister"), "Register": refuse}
