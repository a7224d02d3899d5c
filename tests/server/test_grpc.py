"""gRPC in this process, by messages of our own; other projects' clients call it in tests/clients."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from score.server.grpc_messages import message
from score.server.grpc_server import SERVICE, GrpcServer
from score.server.models import Models
from score.server.service import Service

ROWS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)


@pytest.fixture
def channel(service: Service) -> Iterator[grpc.Channel]:
    server = GrpcServer(0, 1_000_000)
    server.start(Models.of_one(service))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as found:
        yield found
    server.stop()


def call(channel: grpc.Channel, method: str, **fields: Any) -> Any:
    request = "ModelInferRequest" if method == "ModelInfer" else f"{method}Request"
    answer = "ModelInferResponse" if method == "ModelInfer" else f"{method}Response"
    sent = channel.unary_unary(
        f"/{SERVICE}/{method}", lambda asked: asked.SerializeToString(), message(answer).FromString
    )
    return sent(message(request)(**fields), timeout=20)


def tensor(datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": [2, 10]} | more


def test_raw_contents_and_typed_ones(channel: grpc.Channel, service: Service) -> None:
    wanted = service.predictor(ROWS)
    for inputs, raw in (
        ([tensor()], [ROWS.tobytes()]),
        ([tensor(contents={"fp32_contents": ROWS.reshape(-1).tolist()})], []),
        ([tensor("FP64", contents={"fp64_contents": ROWS.reshape(-1).tolist()})], []),
    ):
        answer = call(channel, "ModelInfer", model_name=service.name, id="r1", inputs=inputs, raw_input_contents=raw)
        assert (answer.model_name, answer.model_version, answer.id) == (service.name, "1", "r1")
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("output", "FP32", [2, 2])
        found = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, 2)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert service.observer.snapshot()["requests"] == 3


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"model_name": "another"}, grpc.StatusCode.NOT_FOUND, "unknown_model"),
        ({"model_version": "2"}, grpc.StatusCode.NOT_FOUND, "version 1"),
        ({"inputs": [], "raw_input_contents": []}, grpc.StatusCode.INVALID_ARGUMENT, "no inputs"),
        ({"inputs": [tensor(), tensor()]}, grpc.StatusCode.INVALID_ARGUMENT, "raw contents of 1"),
        ({"inputs": [tensor("INT32")]}, grpc.StatusCode.INVALID_ARGUMENT, "wrong_dtype"),
        ({"inputs": [tensor(shape=[1, 10])]}, grpc.StatusCode.INVALID_ARGUMENT, "10 values of FP32 are 40 bytes"),
        ({"inputs": [tensor("FP99")]}, grpc.StatusCode.INVALID_ARGUMENT, "datatype FP99"),
        ({"outputs": [{"name": "logits"}]}, grpc.StatusCode.INVALID_ARGUMENT, "unknown_output"),
    ],
)
def test_what_is_wrong_is_the_calls_status(
    channel: grpc.Channel, service: Service, fields: dict[str, Any], status: grpc.StatusCode, says: str
) -> None:
    asked = {"model_name": service.name, "inputs": [tensor()], "raw_input_contents": [ROWS.tobytes()]} | fields
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", **asked)
    assert caught.value.code() == status  # type: ignore[attr-defined]
    assert says in caught.value.details()  # type: ignore[attr-defined]


def test_what_else_is_asked(channel: grpc.Channel, service: Service) -> None:
    assert call(channel, "ServerLive").live and call(channel, "ServerReady").ready
    assert call(channel, "ModelReady", name=service.name).ready
    assert not call(channel, "ModelReady", name=service.name, version="9").ready
    about = call(channel, "ModelMetadata", name=service.name)
    assert [(each.name, list(each.shape)) for each in about.inputs] == [("x", [-1, 10])]
    assert call(channel, "ModelConfig", name=service.name).config.input[0].data_type == 11  # TYPE_FP32
    assert [each.state for each in call(channel, "RepositoryIndex").models] == ["READY"]
    assert call(channel, "ModelStatistics").model_stats[0].name == service.name
    with pytest.raises(grpc.RpcError, match="not_supported"):
        call(channel, "RepositoryModelUnload", model_name=service.name)


def test_too_large_a_message_is_refused(channel: grpc.Channel, service: Service) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", model_name=service.name, inputs=[tensor()], raw_input_contents=[bytes(2_000_000)])
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
