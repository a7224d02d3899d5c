"""What azure-ai-ml's loaders miss in the files for Azure; and that all agree with the settings and the image."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from examples.train_digits import writers
from models.digits_cnn import DigitsCNN
from score import __version__
from score.server import data_collector, gunicorn_config
from score.server.metrics import Observer
from score.server.routes import prometheus
from score.settings import Settings, variable
from tests.test_pins import pins

ROOT = Path(__file__).resolve().parent.parent
ONLINE = [
    "deployment.yml",
    *(
        f"deploy/{name}.yml"
        for name in ("deployment-collect", "deployment-curated", "deployment-gpu", "kubernetes-deployment")
    ),
]
DEPLOYMENTS = [*ONLINE, "deploy/batch-deployment.yml"]
ENDPOINTS = [f"deploy/{name}.yml" for name in ("endpoint", "kubernetes-endpoint", "batch-endpoint")]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,30}[A-Za-z0-9]\Z")  # 3 to 32, as Azure ML has it
AZURES_LONGEST_MS = 180_000
LARGEST_MODEL, SLOWEST_READ = 10e9, 20e6  # bytes, bytes a second


def document(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def default(field: str) -> Any:
    return Settings.model_fields[field].default


@pytest.mark.parametrize("name", [*DEPLOYMENTS, *ENDPOINTS])
def test_names_are_such_as_azure_takes(name: str) -> None:
    found = document(name)
    assert NAME.match(found["name"])
    if name in DEPLOYMENTS:
        assert found["endpoint_name"] in {document(endpoint)["name"] for endpoint in ENDPOINTS}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_paths_exist(name: str) -> None:
    found, folder = document(name), (ROOT / name).parent
    model = (folder / found["model"]["path"]).resolve().relative_to(ROOT / "examples" / "digits")
    network = DigitsCNN()
    made = {Path(path).parent for path in writers(network, torch.optim.SGD(network.parameters()))}
    assert model in made
    assert NAME.match(found["model"]["name"])
    if "code_configuration" in found:
        code = folder / found["code_configuration"]["code"]
        assert (code / found["code_configuration"]["scoring_script"]).is_file()
        assert (folder / found["environment"]["conda_file"]).is_file()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_an_image_or_a_build_and_never_both(name: str) -> None:
    environment = document(name)["environment"]
    assert ("image" in environment) != ("build" in environment)
    ours = "loadstone:" in environment["image"]
    assert ours == ("inference_config" in environment)
    assert ours != ("conda_file" in environment)  # conda packages on top of our image would build another image
    if ours:
        routes = environment["inference_config"]
        port = int(re.search(r"^EXPOSE (\d+)$", dockerfile(), re.M)[1])  # type: ignore[index]
        assert {kind: route["path"] for kind, route in routes.items()} == {
            "liveness_route": "/", "readiness_route": "/", "scoring_route": "/score",
        }  # fmt: skip
        assert {route["port"] for route in routes.values()} == {port}
        flavour = "gpu" if name.endswith("-gpu.yml") else "cpu"
        assert environment["image"].endswith(f"/loadstone:{__version__}-{flavour}")


@pytest.mark.parametrize("name", ONLINE)
def test_probes_wait_for_a_ten_gigabyte_model(name: str) -> None:
    found = document(name)
    for kind in ("liveness_probe", "readiness_probe"):
        probe = found[kind]
        assert set(probe) == {"initial_delay", "period", "timeout", "success_threshold", "failure_threshold"}
        assert all(isinstance(value, int) and value > 0 for value in probe.values())
        assert probe["timeout"] <= probe["period"]
        assert probe["initial_delay"] + probe["period"] * probe["failure_threshold"] >= LARGEST_MODEL / SLOWEST_READ


@pytest.mark.parametrize("name", ONLINE)
def test_concurrency_and_timeouts_agree(name: str) -> None:
    """Across the Dockerfile, the YAML, gunicorn's configuration and the settings."""
    found = document(name)
    asked, variables = found["request_settings"], found["environment_variables"]
    assert all(isinstance(value, str) for value in variables.values())  # YAML's true and 1 are refused by Azure
    deadline = int(variables["SCORING_TIMEOUT_MS"])
    assert deadline == default("scoring_timeout_ms")
    assert deadline < asked["request_timeout_ms"] <= AZURES_LONGEST_MS
    command = variables.get("GUNICORN_CMD_ARGS", "")
    at_once = asked["max_concurrent_requests_per_instance"]
    if command:  # gunicorn's own threads
        threads = int(shlex.split(command)[shlex.split(command).index("--threads") + 1])
        assert at_once == threads <= default("max_queue")
        assert f"--graceful-timeout {gunicorn_config.graceful_timeout}" in command
    else:  # the image's worker, whose connections are more than the requests
        assert at_once == int(variables["SCORE_MAX_QUEUE"]) == default("max_queue")
        assert at_once < gunicorn_config.worker_connections
        assert "--config /opt/loadstone/score/server/gunicorn_config.py" in dockerfile()
    assert at_once >= default("max_batch")  # else no batch is ever full
    known = {variable(field) for field in Settings.model_fields} | {"GUNICORN_CMD_ARGS", "PYTHONUNBUFFERED"}
    assert set(variables) <= known


def test_the_kubernetes_scaler_has_room() -> None:
    scale = document("deploy/kubernetes-deployment.yml")["scale_settings"]
    assert scale["type"] == "target_utilization"
    assert 0 < scale["min_instances"] < scale["max_instances"]
    assert 0 < scale["target_utilization_percentage"] < 100
    assert scale["polling_interval"] > 0


def test_no_builder_needs_more_than_dockers_first() -> None:
    """`az acr build` has no BuildKit."""
    text = dockerfile()
    assert not re.search(r"RUN --|COPY --(?!from)|ADD --|^# syntax|<<\s*EOF", text, re.M)
    user = re.findall(r"^USER (\S+)$", text, re.M)[-1]
    assert user == re.search(r"--uid (\d+)", text)[1]  # type: ignore[index]  # a number: Kubernetes' runAsNonRoot


def test_what_is_collected_is_what_the_server_hands_over() -> None:
    found = document("deploy/deployment-collect.yml")
    assert found["environment_variables"]["SCORE_COLLECT_DATA"] == "true"
    collections = found["data_collector"]["collections"]
    assert set(collections) == {data_collector.INPUTS, data_collector.OUTPUTS}
    assert all(each["enabled"] == "True" for each in collections.values())
    assert any(line.startswith("azureml-ai-monitoring==") for line in pins("deploy/image-cpu.lock"))


def test_the_runtime_for_kserve() -> None:
    spec = document("deploy/kserve/runtime.yaml")["spec"]
    assert {each["name"] for each in spec["supportedModelFormats"]} == {"pytorch", "huggingface", "mlflow"}
    assert set(spec["protocolVersions"]) == {"v1", "v2", "grpc-v2"}
    (container,) = spec["containers"]
    security = container["securityContext"]
    assert (security["runAsUser"], security["runAsNonRoot"]) == (1000, True)
    port = container["args"][container["args"].index("--port") + 1]
    assert spec["annotations"] == {"prometheus.kserve.io/port": port, "prometheus.kserve.io/path": "/metrics"}
    assert port == str(container["ports"][0]["containerPort"])
    assert {each["name"] for each in container["env"]} <= {variable(field) for field in Settings.model_fields}
    schemes = []
    for file in sorted((ROOT / "deploy" / "kserve").glob("inferenceservice-*.yaml")):
        model = yaml.safe_load(file.read_text())["spec"]["predictor"]["model"]
        assert model["runtime"] == document("deploy/kserve/runtime.yaml")["metadata"]["name"]
        schemes.append(model["storageUri"])
    assert [uri.partition("://")[0] for uri in schemes] == ["https", "https", "pvc"]
    assert "blob.core.windows.net" in schemes[0]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    observer = Observer(log_requests=False)
    each = observer.totals() | dict.fromkeys(("waiting", "running", "weights", "loaded"), 0)
    totals = {"models": {"m": each}, "versions": {"m": "1"}, "front": None, "memory": 1, "gpus": {"0": 1}}
    families = list(text_string_to_metric_families(prometheus.exposed(totals).decode()))
    known = {family.name for family in families} | {f"{family.name}_total" for family in families}
    known |= {f"{family.name}_bucket" for family in families}
    dashboard = (ROOT / "deploy" / "grafana" / "loadstone.json").read_text()
    asked = set(re.findall(r"\b((?:loadstone|nv)_\w+)", dashboard))
    assert len(asked) >= 10
    assert asked <= known


def test_the_dockerfile_copies_what_the_builder_is_sent() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(\S+) ", dockerfile(), re.M)
    assert {path.replace("${FLAVOUR}", "*") for path in copied} == set(sent)
    assert re.search(r"^ARG BASE_IMAGE=\S+@sha256:[0-9a-f]{64}$", dockerfile(), re.M)
    assert "--require-hashes" in dockerfile()
    assert f"ARG VERSION={__version__}\n" in dockerfile()


@pytest.mark.parametrize("flavour", ["cpu", "gpu"])
def test_the_images_lock_has_the_servers_versions_and_a_hash_for_each(flavour: str) -> None:
    lines = [line for line in (ROOT / f"deploy/image-{flavour}.lock").read_text().splitlines() if "==" in line]
    assert all(re.match(r"^\S+==\S+ --hash=sha256:[0-9a-f]{64}$", line) for line in lines)
    locked = dict(re.match(r"(\S+)==([^\s+]+)", line).groups() for line in lines)  # type: ignore[union-attr]
    wanted = dict(line.split("==") for line in pins("requirements.lock"))
    development = dict(line.split("==") for line in pins("requirements-dev.lock"))
    assert wanted.items() <= locked.items()
    assert locked["transformers"] == development["transformers"]
    assert locked["onnxruntime"] == development["onnxruntime"]
    assert ("torch==2.13.0+cpu" in "\n".join(lines)) == (flavour == "cpu")
    assert any(name.startswith("nvidia-") for name in locked) == (flavour == "gpu")


def test_the_batch_environment_has_what_the_driver_and_the_script_need() -> None:
    packages = document("deploy/batch-conda.yml")["dependencies"][-1]["pip"]
    pinned = dict(re.match(r"([\w-]+)(?:\[\w+\])?==(\S+)", line).groups() for line in packages)  # type: ignore[union-attr]
    assert {"azureml-core", "azureml-dataset-runtime", "pandas", "pyarrow"} <= set(pinned)
    server = dict(line.split("==") for line in pins("requirements.lock"))
    ours = {name: version for name, version in pinned.items() if name in server and name != "numpy"}
    assert ours.items() <= server.items()
    assert len(ours) >= 10


AZ = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["AZ_LOG"], "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
words = " ".join(sys.argv[1:])
for failing in filter(None, os.environ.get("AZ_FAILS", "").split(";")):
    if words.startswith(failing):
        print(f"ERROR: no {failing}", file=sys.stderr)
        sys.exit(1)
if "invoke" in words:
    print(json.dumps(os.environ.get("AZ_ANSWER", '{"predictions": [[1.0]]}')))
if "--query id" in words:
    print("/subscriptions/s/deployments/blue")
"""


class FakeAz:
    """An `az` that records what it is asked, in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "az.log"
        (folder / "az").write_text(AZ)
        (folder / "az").chmod(0o755)

    def run(self, *command: str, present: bool = True, **variables: str) -> subprocess.CompletedProcess:
        self.log.write_text("")
        path = f"{self.folder}:{os.environ['PATH']}" if present else str(Path(sys.executable).parent)
        given = os.environ | {"PATH": path, "AZ_LOG": str(self.log)} | variables
        return subprocess.run(list(command), capture_output=True, text=True, env=given, cwd=ROOT)

    def asked(self) -> list[str]:
        return [" ".join(yaml.safe_load(line)) for line in self.log.read_text().splitlines()]


@pytest.fixture
def az(tmp_path: Path) -> FakeAz:
    return FakeAz(tmp_path)


def tool(*words: str) -> tuple[str, ...]:
    return (sys.executable, "tools/azure.py", *words)


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("extension show", "az extension add --name ml"),
        ("account show", "az login"),
        ("ml workspace show", "az configure --defaults group=<resource group> workspace=<workspace>"),
    ],
)
@pytest.mark.parametrize("verb", ["deploy", "smoke", "logs", "delete"])
def test_what_is_missing_is_said_before_anything_is_done(az: FakeAz, verb: str, fails: str, says: str) -> None:
    done = az.run(*tool("--registry", "mine", verb), AZ_FAILS=fails)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(asked.startswith(("ml online-endpoint", "ml online-deployment")) for asked in az.asked())


def test_without_az_it_says_where_to_get_it(az: FakeAz) -> None:
    done = az.run(*tool("deploy"), present=False)
    assert (done.returncode, "https://aka.ms/azure-cli" in done.stderr) == (1, True)


def test_deploy_creates_the_endpoint_once_and_the_deployment(az: FakeAz, digits_folder: Path) -> None:
    model = digits_folder / "torch-zip"
    words = tool("--registry", "mine", "--endpoint", "my-digits", "--model", str(model), "deploy")
    done = az.run(*words, AZ_FAILS="ml online-endpoint show")
    assert done.returncode == 0, done.stderr
    created = [asked for asked in az.asked() if " create " in asked]
    assert created[0].startswith("ml online-endpoint create --name my-digits --file")
    assert created[1].endswith("build/deployment.yml --all-traffic")
    filled = document("build/deployment.yml")
    assert (filled["endpoint_name"], filled["name"]) == ("my-digits", "blue")
    assert filled["environment"]["image"] == f"mine.azurecr.io/loadstone:{__version__}-cpu"
    assert Path(filled["model"]["path"]) == model
    again = az.run(*words)
    assert again.returncode == 0
    assert not any("online-endpoint create" in asked for asked in az.asked())


def test_deploy_without_a_registry_says_how_to_build_there(az: FakeAz) -> None:
    done = az.run(*tool("deploy"))
    assert done.returncode == 1
    assert "REGISTRY=" in done.stderr
    assert "az acr build" in done.stderr


def test_smoke_checks_the_answer(az: FakeAz) -> None:
    assert az.run(*tool("smoke")).stdout.startswith("loadstone answers: ")
    refused = az.run(*tool("smoke"), AZ_ANSWER='{"error": {"code": "wrong_shape"}}')
    assert refused.returncode == 1
    assert "wrong_shape" in refused.stderr


def test_logs_and_delete_name_the_endpoint(az: FakeAz) -> None:
    assert az.run(*tool("--endpoint", "mine", "logs")).returncode == 0
    assert az.asked()[-1] == "ml online-deployment get-logs --endpoint-name mine --name blue --lines 200"
    assert az.run(*tool("--endpoint", "mine", "delete")).returncode == 0
    assert az.asked()[-1] == "ml online-endpoint delete --name mine --yes"


def test_autoscale_scales_the_named_deployment(az: FakeAz) -> None:
    usage = az.run("bash", "deploy/autoscale.sh")
    assert usage.returncode == 2
    assert "deploy/autoscale.sh ENDPOINT" in usage.stderr
    done = az.run("bash", "deploy/autoscale.sh", "mine", "green", "2", "6")
    assert done.returncode == 0, done.stderr
    _, created, out, back = az.asked()
    assert "--min-count 2 --max-count 6" in created
    assert "/deployments/blue" in created
    assert out.endswith("--scale out 1")
    assert back.endswith("--scale in 1")


def test_the_manifest_for_kubernetes_is_read_only_and_without_capabilities() -> None:
    deployment, service = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
