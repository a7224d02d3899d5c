"""Calls of other projects' own clients, in an environment that has them: each function is one client's.

    python calls.py FUNCTION PORT [GRPC_PORT]

Run by test_clients.py. The model answers ten numbers with two; what torch says of ROWS comes as JSON on standard input.
"""

import asyncio
import base64
import json
import sys

import numpy as np

ROWS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)
MODEL = "simple"


def close(found, wanted) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=np.float64), wanted, atol=1e-5)


def refused(call, exception, says: str) -> None:
    try:
        call()
    except exception as error:
        assert says in str(error), str(error)
    else:
        raise AssertionError(f"not refused: {says}")


def triton_http(wanted, port: int, _grpc: int) -> None:
    import ml_dtypes
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
        assert not client.is_model_ready("another")
        assert client.get_server_metadata()["name"] == "loadstone"
        about = client.get_model_metadata(MODEL)
        assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 10]}], about
        assert client.get_model_config(MODEL)["max_batch_size"] == 64
        assert client.get_model_repository_index()[0]["name"] == MODEL
        assert client.get_trace_settings()["trace_level"] == ["OFF"]
        assert client.get_log_settings()["log_info"] is True
        assert client.get_system_shared_memory_status() == []
        assert client.get_cuda_shared_memory_status() == []
        for binary in (True, False):
            for packed in (None, "gzip", "deflate"):
                item = triton.InferInput("any name", [2, 10], "FP32")
                item.set_data_from_numpy(ROWS, binary_data=binary)
                output = triton.InferRequestedOutput("output", binary_data=binary)
                found = client.infer(
                    MODEL, [item], outputs=[output], request_id="r1",
                    request_compression_algorithm=packed, response_compression_algorithm=packed,
                )  # fmt: skip
                close(found.as_numpy("output"), wanted)
                assert found.get_response()["id"] == "r1"
                assert found.get_response()["model_name"] == MODEL
        classes = client.infer(MODEL, [item], outputs=[triton.InferRequestedOutput("output", class_count=1)])
        said = classes.as_numpy("output").reshape(-1)[0]
        assert int((said.decode() if isinstance(said, bytes) else said).split(":")[1]) == int(np.argmax(wanted[0]))
        half = triton.InferInput("x", [2, 10], "FP16")
        half.set_data_from_numpy(ROWS.astype(np.float16))
        np.testing.assert_allclose(client.infer(MODEL, [half]).as_numpy("output"), wanted, atol=1e-2)
        brain = triton.InferInput("x", [2, 10], "BF16")
        brain.set_data_from_numpy(ROWS.astype(ml_dtypes.bfloat16))
        np.testing.assert_allclose(client.infer(MODEL, [brain]).as_numpy("output"), wanted, atol=1e-1)
        whole = triton.InferInput("x", [2, 10], "INT32")
        whole.set_data_from_numpy(np.ones((2, 10), np.int32))
        refused(lambda: client.infer(MODEL, [whole]), InferenceServerException, "wrong_dtype")
        refused(lambda: client.infer("another", [item]), InferenceServerException, "unknown_model")
        refused(lambda: client.load_model(MODEL), InferenceServerException, "not_supported")
        refused(lambda: client.register_system_shared_memory("a", "/a", 1), InferenceServerException, "not_supported")
        stats = client.get_inference_statistics(MODEL)["model_stats"][0]
        assert stats["inference_count"] >= 12 and stats["inference_stats"]["success"]["count"] >= 6, stats


def triton_several(wanted, port: int, grpc_port: int) -> None:
    """Two models, of which `simple` is one, loaded and unloaded by their names."""
    import tritonclient.grpc as triton_rpc
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    for module, client in (
        (triton, triton.InferenceServerClient(f"127.0.0.1:{port}")),
        (triton_rpc, triton_rpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")),
    ):
        with client:
            item = module.InferInput("x", [2, 10], "FP32")
            item.set_data_from_numpy(ROWS)
            client.load_model(MODEL)
            close(client.infer(MODEL, [item], model_version="1").as_numpy("output"), wanted)
            assert client.infer("other", [item]).get_response() is not None
            client.unload_model(MODEL)
            assert not client.is_model_ready(MODEL)
            refused(lambda: client.infer(MODEL, [item]), InferenceServerException, "model_unloaded")
            client.load_model(MODEL)
            assert client.is_model_ready(MODEL, "1")
            close(client.infer(MODEL, [item]).as_numpy("output"), wanted)
            client.get_inference_statistics()


def triton_http_aio(wanted, port: int, _grpc: int) -> None:
    import tritonclient.http.aio as triton

    async def call() -> None:
        async with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert await client.is_server_live() and await client.is_model_ready(MODEL)
            item = triton.InferInput("x", [2, 10], "FP32")
            item.set_data_from_numpy(ROWS)
            found = await asyncio.gather(*(client.infer(MODEL, [item]) for _ in range(16)))
            for each in found:
                close(each.as_numpy("output"), wanted)

    asyncio.run(call())


def triton_grpc(wanted, _port: int, grpc_port: int) -> None:
    import queue

    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    with triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
        assert client.get_server_metadata().name == "loadstone"
        assert list(client.get_model_metadata(MODEL).inputs[0].shape) == [-1, 10]
        config = client.get_model_config(MODEL).config
        assert (config.max_batch_size, list(config.input[0].dims)) == (64, [10]), config
        assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
        assert client.get_log_settings().settings["log_info"].bool_param is True
        assert not client.get_system_shared_memory_status().regions
        assert not client.get_cuda_shared_memory_status().regions
        client.unregister_system_shared_memory()
        refused(
            lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
            InferenceServerException, "not_supported",
        )  # fmt: skip
        refused(lambda: client.update_log_settings({"log_verbose_level": 2}), InferenceServerException, "not_supported")
        refused(lambda: client.register_system_shared_memory("a", "/a", 1), InferenceServerException, "not_supported")
        assert client.get_model_repository_index().models[0].name == MODEL
        item = triton.InferInput("any name", [2, 10], "FP32")
        item.set_data_from_numpy(ROWS)
        found = client.infer(MODEL, [item], request_id="r1")
        close(found.as_numpy("output"), wanted)
        assert found.get_response().id == "r1"
        classes = client.infer(MODEL, [item], outputs=[triton.InferRequestedOutput("output", class_count=1)])
        assert int(classes.as_numpy("output").reshape(-1)[0].split(b":")[1]) == int(np.argmax(wanted[0]))
        whole = triton.InferInput("x", [2, 10], "INT32")
        whole.set_data_from_numpy(np.ones((2, 10), np.int32))
        refused(lambda: client.infer(MODEL, [whole]), InferenceServerException, "wrong_dtype")
        refused(lambda: client.infer("another", [item]), InferenceServerException, "unknown_model")
        refused(lambda: client.get_model_metadata("another"), InferenceServerException, "unknown_model")
        answers: queue.Queue = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(MODEL, [item])
        client.async_stream_infer(MODEL, [whole])
        result, error = answers.get(timeout=20)
        assert error is None
        close(result.as_numpy("output"), wanted)
        assert "wrong_dtype" in str(answers.get(timeout=20)[1])
        client.stop_stream()
        assert client.get_inference_statistics(MODEL).model_stats[0].inference_count >= 2


def triton_grpc_aio(wanted, _port: int, grpc_port: int) -> None:
    import tritonclient.grpc.aio as triton

    async def call() -> None:
        async with triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
            item = triton.InferInput("x", [2, 10], "FP32")
            item.set_data_from_numpy(ROWS)
            for each in await asyncio.gather(*(client.infer(MODEL, [item]) for _ in range(16))):
                close(each.as_numpy("output"), wanted)

    asyncio.run(call())


def kserve_rest(wanted, port: int, _grpc: int) -> None:
    from kserve import InferInput, InferRequest
    from kserve.inference_client import InferenceRESTClient, RESTConfig

    base = f"http://127.0.0.1:{port}"

    async def call() -> None:
        v2 = InferenceRESTClient(RESTConfig(protocol="v2"))
        assert await v2.is_server_live(base) and await v2.is_server_ready(base)
        assert await v2.is_model_ready(base, MODEL)
        for binary in (True, False):
            item = InferInput("x", [2, 10], "FP32")
            item.set_data_from_numpy(ROWS, binary_data=binary)
            found = await v2.infer(base, InferRequest(MODEL, [item], request_id="r1"), model_name=MODEL)
            close(found.outputs[0].as_numpy(), wanted)
            assert (found.id, found.model_name) == ("r1", MODEL)
        v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
        assert await v1.is_model_ready(base, MODEL)
        close((await v1.infer(base, {"instances": ROWS.tolist()}, model_name=MODEL))["predictions"], wanted)

    asyncio.run(call())


def kserve_grpc(wanted, _port: int, grpc_port: int) -> None:
    from kserve import InferInput, InferRequest
    from kserve.inference_client import InferenceGRPCClient

    async def call() -> None:
        client = InferenceGRPCClient(f"127.0.0.1:{grpc_port}")
        assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready(MODEL)
        item = InferInput("x", [2, 10], "FP32")
        item.set_data_from_numpy(ROWS, binary_data=True)
        found = await client.infer(InferRequest(MODEL, [item], request_id="r1"))
        close(found.outputs[0].as_numpy(), wanted)
        await client.close()

    asyncio.run(call())


def mlflow(wanted, port: int, _grpc: int) -> None:
    import pandas
    import requests
    from mlflow.deployments import PredictionsResponse
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient("127.0.0.1", port)
    client.ping()
    assert client.get_version()
    client.wait_server_ready(10)
    frame = pandas.DataFrame(ROWS)
    close(client.invoke(frame).get_predictions(), wanted)
    base = f"http://127.0.0.1:{port}/invocations"
    split = json.loads(frame.to_json(orient="split"))
    bodies = [
        ("application/json", json.dumps({"dataframe_split": split})),
        ("application/json", json.dumps({"dataframe_records": frame.to_dict(orient="records")})),
        ("application/json", json.dumps({"inputs": ROWS.tolist()})),
        ("application/json", json.dumps({"instances": ROWS.tolist()})),
        ("application/json", json.dumps(ROWS.tolist())),
        ("text/csv", frame.add_prefix("column ").to_csv(index=False)),
        ("text/csv; header=present", frame.to_csv(index=False)),
        ("text/csv", frame.to_csv(index=False, header=False)),
        ("application/jsonlines", "\n".join(json.dumps(row) for row in ROWS.tolist())),
    ]
    for kind, body in bodies:
        answer = requests.post(base, data=body, headers={"Content-Type": kind}, timeout=20)
        assert answer.status_code == 200, (kind, answer.text)
        found = PredictionsResponse.from_json(answer.text)
        close(found["predictions"], wanted)
    wrong = requests.post(base, json={"inputs": [[1]]}, timeout=20)
    assert wrong.status_code == 400 and wrong.json()["error_code"] == "BAD_REQUEST"


def openai(wanted, port: int, _grpc: int) -> None:
    """`wanted` are the embeddings of two texts."""
    from openai import BadRequestError, NotFoundError, OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    texts = ["hello world", "A second, rather longer sentence."]
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = client.embeddings.create(model=model.id, input=texts, **encoding)
        assert found.model == model.id
        assert found.usage.prompt_tokens > 4
        vectors = [
            np.frombuffer(base64.b64decode(each.embedding), "<f4")
            if isinstance(each.embedding, str)
            else each.embedding
            for each in found.data
        ]
        close(vectors, wanted)
    close(client.embeddings.create(model=model.id, input=texts[0]).data[0].embedding, wanted[0])
    refused(lambda: client.embeddings.create(model="another", input="a"), NotFoundError, "no model 'another'")
    refused(lambda: client.embeddings.create(model=model.id, input="a", dimensions=3), BadRequestError, "dimensions")


if __name__ == "__main__":
    name, port, *rest = sys.argv[1:]
    globals()[name](np.asarray(json.load(sys.stdin)), int(port), int(rest[0]) if rest else 0)
    print(f"{name}: all calls work")
