"""The messages of the Open Inference Protocol's gRPC interface, as far as this server reads and writes them.

They are made from a table of their fields, so that no generated code has to fit the installed protobuf. What others may
send beside these is left out by protobuf itself, as its specification has it.

Specification: kserve/open-inference-protocol, specification/protocol/inference_grpc.md; fields beyond it are Triton's.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

PACKAGE = "inference"
_TENSOR = "name:1:string datatype:2:string shape:3:int64* parameters:4:{InferParameter} contents:5:InferTensorContents"
_OF_MODEL = "name:1:string version:2:string"
_DURATIONS = "success:1 fail:2 queue:3 compute_input:4 compute_infer:5 compute_output:6"
_FIELDS: Mapping[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:1:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:1:bool",
    "ModelReadyRequest": _OF_MODEL,
    "ModelReadyResponse": "ready:1:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:1:string version:2:string extensions:3:string*",
    "ModelMetadataRequest": _OF_MODEL,
    "TensorMetadata": "name:1:string datatype:2:string shape:3:int64*",
    "ModelMetadataResponse": "name:1:string versions:2:string* platform:3:string inputs:4:TensorMetadata* "
    "outputs:5:TensorMetadata*",
    "InferParameter": "bool_param:1:bool@ int64_param:2:int64@ string_param:3:string@ double_param:4:double@ "
    "uint64_param:5:uint64@",
    "InferTensorContents": "bool_contents:1:bool* int_contents:2:int32* int64_contents:3:int64* "
    "uint_contents:4:uint32* "
    "uint64_contents:5:uint64* fp32_contents:6:float* fp64_contents:7:double* bytes_contents:8:bytes*",
    "InferInputTensor": _TENSOR,
    "InferOutputTensor": _TENSOR,
    "InferRequestedOutputTensor": "name:1:string parameters:2:{InferParameter}",
    "ModelInferRequest": "model_name:1:string model_version:2:string id:3:string parameters:4:{InferParameter} "
    "inputs:5:InferInputTensor* outputs:6:InferRequestedOutputTensor* raw_input_contents:7:bytes*",
    "ModelInferResponse": "model_name:1:string model_version:2:string id:3:string parameters:4:{InferParameter} "
    "outputs:5:InferOutputTensor* raw_output_contents:6:bytes*",
    "ModelStreamInferResponse": "error_message:1:string infer_response:2:ModelInferResponse",
    "ModelInput": "name:1:string data_type:2:int32 dims:4:int64*",
    "ModelOutput": "name:1:string data_type:2:int32 dims:3:int64*",
    "ModelDynamicBatching": "preferred_batch_size:1:int32* max_queue_delay_microseconds:2:uint64",
    "ModelConfig": "name:1:string platform:2:string backend:17:string max_batch_size:4:int32 input:5:ModelInput* "
    "output:6:ModelOutput* dynamic_batching:11:ModelDynamicBatching",
    "ModelConfigRequest": _OF_MODEL,
    "ModelConfigResponse": "config:1:ModelConfig",
    "ModelStatisticsRequest": _OF_MODEL,
    "StatisticDuration": "count:1:uint64 ns:2:uint64",
    "InferStatistics": " ".join(f"{each}:StatisticDuration" for each in _DURATIONS.split()),
    "ModelStatistics": "name:1:string version:2:string last_inference:3:uint64 inference_count:4:uint64 "
    "execution_count:5:uint64 inference_stats:6:InferStatistics",
    "ModelStatisticsResponse": "model_stats:1:ModelStatistics*",
    "RepositoryIndexRequest": "repository_name:1:string ready:2:bool",
    "ModelIndex": "name:1:string version:2:string state:3:string reason:4:string",
    "RepositoryIndexResponse": "models:1:ModelIndex*",
    "RepositoryModelLoadRequest": "repository_name:1:string model_name:2:string",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "repository_name:1:string model_name:2:string",
    "RepositoryModelUnloadResponse": "",
    "TraceValue": "value:1:string*",
    "TraceSettingRequest": "settings:1:{TraceValue} model_name:2:string",
    "TraceSettingResponse": "settings:1:{TraceValue}",
    "LogValue": "bool_param:1:bool@ uint32_param:2:uint32@ string_param:3:string@",
    "LogSettingsRequest": "settings:1:{LogValue}",
    "LogSettingsResponse": "settings:1:{LogValue}",
    **{
        f"{kind}SharedMemory{call}{part}": "name:1:string" if part == "Request" else ""
        for kind in ("System", "Cuda")
        for call in ("Status", "Register", "Unregister")
        for part in ("Request", "Response")
    },
}
"""Fields as name:number:type; `*` repeats, `@` is one of several of which one is set, `{}` maps from strings."""

_KINDS = {kind.lower(): getattr(Field, f"TYPE_{kind}") for kind in
          ("BOOL", "INT32", "INT64", "UINT32", "UINT64", "FLOAT", "DOUBLE", "STRING", "BYTES")}  # fmt: skip
_ONE_OF = "choice"


def message(name: str) -> Any:
    """The class of a message."""
    return _classes()[name]


@cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="loadstone_inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _FIELDS.items():
        described = file.message_type.add(name=name)
        for each in fields.split():
            _add(described, *each.split(":"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in _FIELDS}
    return {name: message_factory.GetMessageClass(described) for name, described in found.items()}


def _add(described: Any, name: str, number: str, kind: str) -> None:
    field = described.field.add(name=name, number=int(number), label=Field.LABEL_OPTIONAL)
    if kind.startswith("{"):
        entry = described.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add(entry, "key", "1", "string")
        _add(entry, "value", "2", kind.strip("{}"))
        field.label, field.type = Field.LABEL_REPEATED, Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{described.name}.{entry.name}"
        return
    if kind.endswith("*"):
        field.label = Field.LABEL_REPEATED
    if kind.endswith("@"):
        if not described.oneof_decl:
            described.oneof_decl.add(name=_ONE_OF)
        field.oneof_index = 0
    plain = kind.rstrip("*@")
    if plain in _KINDS:
        field.type = _KINDS[plain]
    else:
        field.type, field.type_name = Field.TYPE_MESSAGE, f".{PACKAGE}.{plain}"
