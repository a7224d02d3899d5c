"""The image, built and run for real: `make image-test`.

Each container runs as it would on Azure ML: as the image's own user, with a read-only root file system, 1,024 open
files and processes at most, and the model's folder mounted.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from score import __version__
from tests.image.base import base_image
from tests.real_server import SLOW, START_SECONDS, Server, free_port
from tools import image as tool

pytestmark = pytest.mark.image

LARGEST = 1.4e9  # bytes of the cpu flavour
MODELS = "/var/azureml-app/azureml-models"
LIMITS = ("--read-only", "--cap-drop", "ALL", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


@pytest.fixture(scope="module")
def engine() -> tool.Engine:
    return tool.engine()


@pytest.fixture(scope="module")
def built(engine: tool.Engine) -> str:
    started = time.monotonic()
    os.environ["BASE_IMAGE"] = base_image(engine)
    name = tool.build("cpu")
    print(f"built {name} in {time.monotonic() - started:.0f} s")
    return name


@contextmanager
def container(
    engine: tool.Engine, built: str, model: Path, folder: Path, **settings: str
) -> Iterator[tuple[Server, subprocess.Popen]]:
    """A container that runs in the foreground of a process of ours, with `model` mounted; its log goes to a file."""
    port, log_path = free_port(), folder / "container.log"
    inside = f"{MODELS}/{model.name}/1"
    options, command = tool.at_port(engine, port)
    for name, value in {"AZUREML_MODEL_DIR": inside, **settings}.items():
        options += ["--env", f"{name}={value}"]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*engine.run, "run", "--rm", *LIMITS, *options, "--volume", f"{model}:{inside}:ro", built, *command],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield Server(port, log_path, process), process
    finally:
        process.terminate()
        process.wait(40)


def until_ready(server: Server) -> float:
    """Wait for the liveness route; the seconds that it took."""
    started = time.monotonic()
    while True:
        assert server.process.poll() is None, f"the container ended:\n{server.log}"
        try:
            if server.request("/", method="GET").status == 200:
                return time.monotonic() - started
        except OSError:
            pass
        assert time.monotonic() - started < START_SECONDS, f"the container did not come up:\n{server.log}"
        time.sleep(0.1)


def inspected(engine: tool.Engine, built: str) -> dict:
    shown = subprocess.run([*engine.run, "image", "inspect", built], capture_output=True, text=True, check=True)
    return json.loads(shown.stdout)[0]


def inside(engine: tool.Engine, built: str, *command: str) -> subprocess.CompletedProcess:
    """Run a command in a container of the image."""
    return subprocess.run(
        [*engine.run, "run", "--rm", *LIMITS, built, *command], capture_output=True, text=True, timeout=120
    )


def test_the_image_is_small_labelled_and_not_root(engine: tool.Engine, built: str) -> None:
    about = inspected(engine, built)
    print(f"size: {about['Size'] / 1e9:.2f} GB")
    assert about["Size"] < LARGEST
    config = about["Config"]
    assert config["User"] == "1000"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.revision"] == tool.revision()
    assert config["Cmd"] == ["score", "serve", "--verbose"]  # which becomes azmlinfsrv
    assert "5001/tcp" in config["ExposedPorts"]
    assert (about.get("HealthCheck") or about.get("Healthcheck") or config.get("Healthcheck"))["Test"]


def test_no_compiler_a_home_and_what_serves_each_format(engine: tool.Engine, built: str) -> None:
    script = (
        "import os, pwd, shutil, torch, transformers, soundfile, sentencepiece, tiktoken, onnxruntime; "
        "print(os.getuid(), pwd.getpwuid(os.getuid()).pw_dir, torch.version.cuda, "
        "*[shutil.which(name) for name in ('gcc', 'cc', 'g++', 'clang', 'nvcc')])"
    )
    done = inside(engine, built, "python", "-c", script)
    assert done.stdout.split() == ["1000", "/home/score", "None", *["None"] * 5], done.stderr
    refused = inside(engine, built, "python", "-c", "open('/opt/loadstone/x', 'w')")
    assert "Read-only file system" in refused.stderr
    shown = inside(engine, built, "score", "--help")
    assert shown.returncode == 0
    assert "inspect" in shown.stdout


def test_a_package_can_be_written_from_the_image(engine: tool.Engine, built: str) -> None:
    script = (
        "import torch; from models.simple_model import SimpleModel; "
        "torch.save(SimpleModel().state_dict(), '/tmp/model.pt')"
    )
    written = "score package /tmp/model.pt -o /tmp/out && cat /tmp/out/deployment.yml"
    done = inside(engine, built, "sh", "-c", f'python -c "{script}" && {written}')
    assert done.returncode == 0, done.stderr
    assert "\n  path: model\n" in done.stdout
    assert "endpoint_name: model\n" in done.stdout


def test_it_serves_a_mounted_model(
    engine: tool.Engine,
    built: str,
    digits_folder: Path,
    held_back: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
) -> None:
    images, labels = held_back
    with container(engine, built, digits_folder / "safetensors", tmp_path) as (server, _):
        print(f"ready after {until_ready(server):.1f} s")
        answer = server.post({"data": images[:64].tolist()})
        assert answer.status == 200, answer.body
        right = torch.tensor(answer.json["predictions"]).argmax(1) == labels[:64]
        assert right.float().mean() > 0.95
        assert "architecture DigitsCNN" in server.log  # the load report
        assert "Using worker: HttpWorker" in server.log
        assert "the memory allocator is tcmalloc" in server.log


def test_a_wrong_model_folder_ends_with_the_diagnosis(engine: tool.Engine, built: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"lmgg" + bytes(64))
    with container(engine, built, tmp_path / "model", tmp_path) as (server, process):
        assert process.wait(60) != 0
        assert "ERROR foreign_format" in server.log
        last = server.log[server.log.index("ERROR foreign_format") :]
        assert "What to do" in last
        assert "Traceback" not in last
        assert len(last.splitlines()) < 15, last


def test_sigterm_lets_requests_in_flight_finish(engine: tool.Engine, built: str, tmp_path: Path) -> None:
    model = tmp_path / "slow"
    model.mkdir()
    (model / "slow.py").write_text(SLOW)
    torch.save({"one": torch.ones(1)}, model / "model.pt")
    settings = {
        "SCORE_ARCHITECTURE": f"{MODELS}/slow/1/slow.py:Slow",
        "SCORE_TRUST_CODE": "true",
        "SCORE_INPUTS": "float32[N, 2]",
    }
    with container(engine, built, model, tmp_path, **settings) as (server, process), ThreadPoolExecutor(1) as pool:
        until_ready(server)
        in_flight = pool.submit(server.post, {"data": [[4.0, 7.0]]})
        time.sleep(1)  # it is with the model by now, and stays there for three more
        process.send_signal(signal.SIGTERM)
        assert in_flight.result().json == {"predictions": [[5.0, 8.0]]}
        assert process.wait(40) == 0


@pytest.mark.parametrize(
    ("inside", "command", "settings", "says", "path"),
    [
        ("/opt/ml/model", ["serve"], {"SAGEMAKER_BIND_TO_PORT": "{port}"}, "this is Amazon SageMaker", "/invocations"),
        (f"{MODELS}/simple", [], {"K_SERVICE": "s", "PORT": "{port}"}, "this is Cloud Run, or Knative", "/score"),
        ("/mnt/models", ["score", "serve", "--port", "{port}"], {}, "this is KServe", "/v1/models/models:predict"),
    ],
)
def test_its_own_command_goes_by_the_platform(
    engine: tool.Engine,
    built: str,
    tmp_path: Path,
    inside: str,
    command: list[str],
    settings: dict[str, str],
    says: str,
    path: str,
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = torch.nn.Linear(10, 2).state_dict()
    torch.save({f"linear.{name}": value for name, value in weights.items()}, folder / "model.pt")
    port, log_path = free_port(), tmp_path / "container.log"
    options, _ = tool.at_port(engine, port)
    environment = {"SCORE_ARCHITECTURE": "SimpleModel"} | {
        name: value.format(port=port) for name, value in settings.items()
    }
    for name, value in environment.items():
        options += ["--env", f"{name}={value}"]
    words = [word.format(port=port) for word in command]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*engine.run, "run", "--rm", *LIMITS, *options, "--volume", f"{folder}:{inside}:ro", built, *words],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    server = Server(port, log_path, process)
    try:
        until_ready(server)
        assert says in server.log
        found = server.request(path, json.dumps({"instances": [[1.0] * 10]}).encode(), Content_Type="application/json")
        assert found.status == 200, found.body
        assert len(found.json["predictions"][0]) == 2
    finally:
        process.terminate()
        process.wait(40)
