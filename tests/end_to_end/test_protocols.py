"""Body formats, compression and the API's description, over HTTP and by other people's clients."""

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from torch import nn

from models.simple_model import SimpleModel
from tests.real_server import Answer, Server, running

ROWS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)


@pytest.fixture(scope="module")
def model() -> SimpleModel:
    torch.manual_seed(3)
    return SimpleModel()


@pytest.fixture(scope="module")
def server(model: SimpleModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("simple")
    torch.save(model.state_dict(), folder / "model.pt")
    with running(folder, tmp_path_factory.mktemp("server"), SCORE_MAX_BODY_MB="0.2") as server:
        yield server


@pytest.fixture(scope="module")
def wanted(model: SimpleModel) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(torch.from_numpy(ROWS)).numpy()
    return found


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_npy_in_and_out(server: Server, wanted: np.ndarray) -> None:
    answer = server.request(body=npy(ROWS), Content_Type="application/x-npy")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-npy")
    np.testing.assert_allclose(np.load(io.BytesIO(answer.body)), wanted, atol=1e-6)


def test_npz_names_its_inputs(server: Server, wanted: np.ndarray) -> None:
    file = io.BytesIO()
    np.savez(file, x=ROWS)
    answer = server.request(body=file.getvalue(), Content_Type="application/x-npz")
    np.testing.assert_allclose(np.load(io.BytesIO(answer.body))["output"], wanted, atol=1e-6)


def test_accept_decides_the_answers_format(server: Server, wanted: np.ndarray) -> None:
    as_json = server.request(body=npy(ROWS), Accept="application/json").json
    np.testing.assert_allclose(as_json["predictions"], wanted, atol=1e-6)
    as_npy = server.post({"data": ROWS.tolist()}, Accept="application/x-npy")
    np.testing.assert_allclose(np.load(io.BytesIO(as_npy.body)), wanted, atol=1e-6)
    refused = server.post({"data": ROWS.tolist()}, Accept="image/png")
    assert (refused.status, refused.json["error"]["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compressed", [None, "gzip"])
def test_the_triton_client_is_understood(
    server: Server, wanted: np.ndarray, binary: bool, compressed: str | None
) -> None:
    item = triton.InferInput("x", [2, 10], "FP32")
    item.set_data_from_numpy(ROWS, binary_data=binary)
    output = triton.InferRequestedOutput("output", binary_data=binary)
    body, length = triton.InferenceServerClient.generate_request_body([item], outputs=[output])
    headers = {"Inference-Header-Content-Length": str(length)} if length else {}
    if compressed:
        body, headers["Content-Encoding"] = gzip.compress(body), compressed
    answer = server.request(body=body, **headers)
    assert answer.status == 200, answer.body
    found = answer.headers.get("Inference-Header-Content-Length")
    assert bool(found) is binary
    result = triton.InferenceServerClient.parse_response_body(answer.body, header_length=found and int(found))
    np.testing.assert_allclose(result.as_numpy("output"), wanted, atol=1e-6)


def test_gzip_in_and_out(server: Server) -> None:
    body = json.dumps({"data": np.ones((1000, 10)).tolist()}).encode()
    plain = server.request(body=body)
    packed = server.request(body=gzip.compress(body), Content_Encoding="gzip", Accept_Encoding="gzip")
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 10


@pytest.mark.parametrize(
    ("body", "encoding", "status", "code"),
    [
        (b"no gzip", "gzip", 400, "invalid_gzip"),
        (gzip.compress(b'{"data": 1}')[:-4], "gzip", 400, "invalid_gzip"),
        (gzip.compress(bytes(50_000_000)), "gzip", 413, "body_too_large"),
        (b"{}", "br", 415, "unsupported_media_type"),
    ],
    ids=["not gzip", "cut short", "bomb", "brotli"],
)
def test_bad_compression(server: Server, body: bytes, encoding: str, status: int, code: str) -> None:
    answer = server.request(body=body, Content_Encoding=encoding)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize("body", [{"data": ROWS.tolist()}, {"data": [[1.0]]}], ids=["good", "bad"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_request_id": "r1"},
        {"x_ms_client_request_id": "c1"},
        {"x_request_id": "r", "x_ms_client_request_id": "c"},
    ],
    ids=lambda headers: "-".join(headers) or "none",
)
def test_the_shortcut_answers_as_azmlinfsrv_does(server: Server, body: Any, headers: dict[str, str]) -> None:
    """A TraceId sends a request the long way, through Flask and azmlinfsrv's hooks."""
    short, long = server.post(body, **headers), server.post(body, **headers, TraceId="t")
    assert long.headers["TraceId"] == "t"

    def compared(answer: Answer) -> dict[str, str]:
        kept = {name.lower(): value for name, value in answer.headers.items()}
        for changing in ("date", "traceid", "x-ms-run-fn-exec-ms"):
            kept.pop(changing, None)
        own = kept["x-request-id"]
        return {name: "its own" if value == own else value for name, value in kept.items()}

    assert compared(short) == compared(long)
    assert float(short.headers["x-ms-run-fn-exec-ms"]) > 0
    one, other = short.json, long.json
    if "error" in one:
        for found, answer in ((one, short), (other, long)):
            assert found["error"].pop("request_id") == answer.headers["x-request-id"]
    assert one == other


def test_an_overlong_request_id_is_refused_as_azmlinfsrv_does(server: Server) -> None:
    assert server.post({"data": ROWS.tolist()}, x_request_id="r" * 101).status == 431


def test_the_description_is_this_models(server: Server) -> None:
    found = server.request("/swagger.json?version=3", method="GET").json
    assert found["openapi"] == "3.0.3"
    dialects = found["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    rows = dialects[0]["properties"]["data"]["anyOf"][0]
    assert rows["minItems"] == 1
    assert (rows["items"]["minItems"], rows["items"]["maxItems"]) == (10, 10)
    assert server.request("/swagger.json?version=2", method="GET").json["swagger"] == "2.0"
    assert server.request("/swagger.json?version=9", method="GET").status == 404


@pytest.mark.parametrize("layers", ["rows", pytest.param("images", marks=pytest.mark.slow)])
def test_schemathesis_finds_no_failure(layers: str, tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Linear(10, 2))
    images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    (tmp_path / "model").mkdir()
    torch.save(flat if layers == "rows" else images, tmp_path / "model" / "model.pt")
    with running(tmp_path / "model", tmp_path) as server:
        url = f"http://127.0.0.1:{server.port}"
        # What is a prediction for this model is described for /score alone; for the protocols' routes it is theirs.
        for more in (
            ["--include-path-regex", "^/(score)?$", "--checks", "all", "--max-examples", "60"],
            ["--exclude-checks", "positive_data_acceptance,negative_data_rejection", "--max-examples", "3"],
        ):
            command = [
                Path(sys.executable).parent / "schemathesis", "run", f"{url}/swagger.json?version=3", "--url", url,
                "--phases", "coverage,fuzzing", "--seed", "1", "--no-color", *more,
            ]  # fmt: skip
            found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
            assert found.returncode == 0, found.stdout[-6000:]
