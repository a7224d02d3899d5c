"""Build the image and run it, with Docker, or with buildah and podman where no Docker engine runs.

    python tools/image.py build [--flavour cpu|gpu]
    python tools/image.py run MODEL [--port 5001]

The user's own pip configuration takes part in the build as build arguments of a stage that is thrown away, so that
indexes and proxies that it names work there too, and stay out of the image. BASE_IMAGE, COMPAT_IMAGE, TORCH_INDEX and
ALLOCATOR in the environment become build arguments, too.
"""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from score import __version__

ROOT = Path(__file__).resolve().parent.parent
NAME = "loadstone"
PIP_OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy")
COMPAT_IMAGE = "nvidia/cuda:13.0.1-base-ubuntu22.04"  # carries cuda-compat: see the Dockerfile
_PASSED_ON = ("BASE_IMAGE", "COMPAT_IMAGE", "TORCH_INDEX")
_EVEN_EMPTY = ("ALLOCATOR",)  # which says something
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True)
class Engine:
    """The commands that build images and run containers."""

    build: tuple[str, ...]
    run: tuple[str, ...]
    gpus: tuple[str, ...]  # the options that show a container all GPUs
    limits: tuple[str, ...]  # the options for limits that need no privilege
    mounts: bool  # whether a build can mount folders of this machine


DOCKER = Engine(("docker", "build"), ("docker",), ("--gpus", "all"), (), mounts=False)
PODMAN = Engine(
    (
        "buildah",
        "--storage-driver",
        "overlay",
        "bud",
        "--isolation",
        "chroot",
        "--network",
        "host",
        "--format",
        "docker",
    ),
    ("podman", "--storage-driver", "overlay", "--runtime", "runc"),
    ("--device", "nvidia.com/gpu=all"),
    ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),  # its defaults ask for more than containers may
    mounts=True,
)


def engine() -> Engine:
    """What works on this machine. Ends with a message where nothing does."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return DOCKER
    if shutil.which("buildah") and shutil.which("podman"):
        return PODMAN
    raise SystemExit("no Docker engine runs here, and buildah and podman are not installed: install either")


def tag(flavour: str) -> str:
    return f"{NAME}:{__version__}-{flavour}"


def revision() -> str:
    found = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def pip_configuration() -> dict[str, str]:
    """What pip is configured with here, from its files and its environment variables, by option."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        option = name.rsplit(".", 1)[-1]
        if option in PIP_OPTIONS:
            found[option] = value.strip("'").replace("\\n", " ")
    return found


def local_folders(configuration: dict[str, str]) -> list[str]:
    """The folders of this machine that pip takes packages from. An index links to files beside its own folder."""
    folders = []
    for option, value in configuration.items():
        for word in value.replace("file://", "").split():
            if word.startswith("/") and Path(word).is_dir():
                folders.append(word if option == "find-links" else str(Path(word).parent))
    return folders


def build(flavour: str) -> str:
    """Build the image of a flavour; returns its tag."""
    with_ = engine()
    configuration = pip_configuration()
    arguments = {"FLAVOUR": flavour, "VERSION": __version__, "REVISION": revision()}
    arguments |= {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
    arguments |= {name: os.environ[name] for name in _EVEN_EMPTY if name in os.environ}
    arguments |= {f"PIP_{option.replace('-', '_').upper()}": value for option, value in configuration.items()}
    if flavour == "gpu":
        arguments.setdefault("COMPAT_IMAGE", COMPAT_IMAGE)
    command = [*with_.build, "--tag", tag(flavour)]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    if with_.mounts:
        for folder in local_folders(configuration):
            command += ["--volume", f"{folder}:{folder}:ro"]
        if Path(CERTIFICATES).is_file():
            command += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    built = subprocess.run([*command, str(ROOT)])
    if built.returncode:
        raise SystemExit(f"the {flavour} image was not built: see above")
    return tag(flavour)


def at_port(with_: Engine, port: int) -> tuple[list[str], list[str]]:
    """Options and a command that have a container answer on a port of this machine. Under podman it shares the
    machine's network, which needs no network plug-ins."""
    if with_ is DOCKER:
        return ["--publish", f"{port}:5001"], []
    entry = "/opt/loadstone/score/main.py"
    return ["--network", "host"], ["azmlinfsrv", "--entry_script", entry, "--port", str(port)]


def run(model: Path, flavour: str, port: int) -> None:
    """Serve a model from the image, read-only and without capabilities, with the model's folder mounted."""
    if not model.exists():
        raise SystemExit(f"{model} does not exist")
    with_ = engine()
    inside = f"/var/azureml-app/azureml-models/{model.name}"
    address, command = at_port(with_, port)
    options = ["run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", *with_.limits, *address]
    options += ["--volume", f"{model.resolve()}:{inside}:ro", "--env", f"AZUREML_MODEL_DIR={inside}"]
    for name in os.environ:
        if name.startswith("SCORE_") or name == "SCORING_TIMEOUT_MS":
            options += ["--env", name]
    if flavour == "gpu":
        options += with_.gpus
    os.execvp(with_.run[0], [*with_.run, *options, tag(flavour), *command])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flavour", choices=("cpu", "gpu"), default="cpu")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build")
    running = verbs.add_parser("run")
    running.add_argument("model", type=Path)
    running.add_argument("--port", type=int, default=5001)
    given = parser.parse_args()
    if given.verb == "build":
        print(build(given.flavour))
    else:
        run(given.model, given.flavour, given.port)


if __name__ == "__main__":
    main()
