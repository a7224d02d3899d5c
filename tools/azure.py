"""The way to Azure, as `make` targets: `deploy`, `deploy-local`, `smoke`, `logs`, `delete`.

Each wraps a few `az ml` commands, prints them as it runs them, and first checks that the Azure CLI, its ml extension, a
login and a workspace are there, saying what is missing and how to get it.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from score.cli import deployment
from tools.image import ROOT, tag

BUILD = ROOT / "build"


def az(*words: str, shown: bool = True) -> subprocess.CompletedProcess:
    """Run an `az` command. Its output goes to the terminal where `shown`, else it is captured."""
    if shown:
        print(f"$ az {shlex.join(words)}", file=sys.stderr)
    return subprocess.run(["az", *words], capture_output=not shown, text=True)


def must(*words: str) -> None:
    """Run an `az` command; ends where it fails, with its own message above."""
    if az(*words).returncode:
        raise SystemExit(f"az {words[0]} {words[1]} failed: see above")


def check_tools(local: bool = False) -> None:
    """End with what is missing and how to get it, before anything is changed."""
    if not shutil.which("az"):
        raise SystemExit("the Azure CLI (az) is not installed: see https://aka.ms/azure-cli")
    if az("extension", "show", "--name", "ml", shown=False).returncode:
        raise SystemExit("the Azure CLI lacks its ml extension: az extension add --name ml")
    if local and (not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode):
        raise SystemExit("a local deployment runs in Docker, and no Docker engine answers: start Docker")
    if az("account", "show", shown=False).returncode:
        raise SystemExit("the Azure CLI is not logged in: az login")
    found = az("ml", "workspace", "show", shown=False)
    if found.returncode:
        why = (found.stderr.strip().splitlines() or [""])[-1]
        raise SystemExit(
            f"there is no workspace to deploy to ({why})\n"
            "name one: az configure --defaults group=<resource group> workspace=<workspace>"
        )


def deploy(given: argparse.Namespace) -> None:
    """Create the endpoint where there is none, and the deployment with all traffic."""
    check_tools(given.local)
    image = tag(given.flavour)
    if given.registry:
        image = f"{given.registry.removesuffix('.azurecr.io')}.azurecr.io/{image}"
    elif not given.local:
        raise SystemExit(
            "say where the image is: REGISTRY=<name of your Azure container registry>. To build it there:\n"
            f"  az acr build --registry <name> --image {image} --build-arg TORCH_INDEX=<torch's CPU index> ."
        )
    template = ROOT / ("deployment.yml" if given.flavour == "cpu" else "deploy/deployment-gpu.yml")
    BUILD.mkdir(exist_ok=True)
    filled = BUILD / "deployment.yml"
    filled.write_text(
        deployment.filled_in(
            template.read_text(), endpoint=given.endpoint, deployment=given.deployment, image=image,
            model=deployment.model_name(given.model), path=str(given.model.resolve()),
        )
    )  # fmt: skip
    local = ["--local"] if given.local else []
    endpoint = ["--name", given.endpoint]
    if az("ml", "online-endpoint", "show", *endpoint, *local, shown=False).returncode:
        must("ml", "online-endpoint", "create", *endpoint, "--file", str(ROOT / "deploy" / "endpoint.yml"), *local)
    traffic = [] if given.local else ["--all-traffic"]
    must("ml", "online-deployment", "create", "--file", str(filled), *local, *traffic)


def smoke(given: argparse.Namespace) -> None:
    """Send one request, and check that predictions come back."""
    check_tools()
    words = ["ml", "online-endpoint", "invoke", "--name", given.endpoint, "--request-file", str(given.request)]
    answered = az(*words, *(["--local"] if given.local else []), shown=False)
    try:
        answer = json.loads(answered.stdout)
        answer = json.loads(answer) if isinstance(answer, str) else answer  # az prints the body as a JSON string
    except ValueError:
        answer = None
    if answered.returncode or not isinstance(answer, dict) or "predictions" not in answer:
        raise SystemExit(f"{given.endpoint} did not answer with predictions:\n{answered.stdout}{answered.stderr}")
    print(f"{given.endpoint} answers: {json.dumps(answer)[:300]}")


def logs(given: argparse.Namespace) -> None:
    """The last lines of the container's log: a failed start ends with the diagnosis."""
    check_tools()
    where = ["--endpoint-name", given.endpoint, "--name", given.deployment, "--lines", "200"]
    must("ml", "online-deployment", "get-logs", *where, *(["--local"] if given.local else []))


def delete(given: argparse.Namespace) -> None:
    """Delete the endpoint and all its deployments."""
    check_tools()
    must("ml", "online-endpoint", "delete", "--name", given.endpoint, "--yes", *(["--local"] if given.local else []))


VERBS = {"deploy": deploy, "smoke": smoke, "logs": logs, "delete": delete}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--local", action="store_true", help="in Docker on this machine, rather than on Azure")
    parser.add_argument("--endpoint", default="loadstone")
    parser.add_argument("--deployment", default="blue")
    parser.add_argument("--flavour", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--registry", default="")
    parser.add_argument("--model", type=Path, default=ROOT / "examples/digits/torch-zip")
    parser.add_argument("--request", type=Path, default=ROOT / "examples/digits/request.json")
    given = parser.parse_args()
    VERBS[given.verb](given)


if __name__ == "__main__":
    main()
