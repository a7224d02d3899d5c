"""Where this runs: what each platform sets, or mounts, and what `score serve` makes of it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from score.errors import InvalidSetting

PORT = 5001  # azmlinfsrv's, where nothing says another


@dataclass(frozen=True)
class Platform:
    """`marks` are variables of which one being set says that this is it, `folder` one that it mounts models at, which
    says so too. `port` and `model` are variables with the port and the model's place; `default_port` is where it looks
    without one."""

    name: str
    marks: tuple[str, ...] = ()
    folder: str = ""
    port: str = ""
    model: str = ""
    default_port: int = PORT
    outside: bool = True  # whether requests come from outside of this machine


# The first that is recognised. Azure ML, whose variable our image sets by itself, is what is left.
PLATFORMS = (
    Platform(
        "Vertex AI",
        marks=("AIP_HTTP_PORT", "AIP_PREDICT_ROUTE", "AIP_MODE"),
        port="AIP_HTTP_PORT",
        model="AIP_STORAGE_URI",
        default_port=8080,  # the paths that it names are routes of ours: score/server/routes/vertex.py
    ),
    Platform(
        "Amazon SageMaker",
        marks=("SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_REGION", "SAGEMAKER_CONTAINER_LOG_LEVEL"),
        folder="/opt/ml/model",
        port="SAGEMAKER_BIND_TO_PORT",
        default_port=8080,
    ),
    Platform("Cloud Run, or Knative", marks=("K_SERVICE", "K_REVISION"), port="PORT", default_port=8080),
    Platform("KServe", folder="/mnt/models", default_port=8080),
    Platform("a platform that sets PORT", marks=("PORT",), port="PORT", outside=False),
    Platform("Azure ML", marks=("AZUREML_MODEL_DIR",), model="AZUREML_MODEL_DIR", outside=False),
)


@dataclass(frozen=True)
class Place:
    """What the recognised platform says; `platform` is None where there is none."""

    platform: Platform | None
    port: int
    model: Path | None
    gcs: str = ""  # the address of a model that has to be fetched first

    def __str__(self) -> str:
        return "no platform is recognised" if self.platform is None else f"this is {self.platform.name}"


def recognised(
    given: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    is_folder: Callable[[str], bool] = os.path.isdir,
) -> Place:
    """The platform that this process runs on, which was given a path to serve, or was not: with another path, a
    folder says nothing. Raises `InvalidSetting` for a port that is none."""
    for platform in PLATFORMS:
        marked = any(environ.get(name) for name in platform.marks)
        meant = given is None or given.absolute() == Path(platform.folder)
        mounted = bool(platform.folder) and meant and is_folder(platform.folder)
        if marked or mounted:
            said = environ.get(platform.model, "") if platform.model else ""
            path = platform.folder if mounted else said
            remote = path.startswith("gs://")
            return Place(
                platform,
                _port(platform, environ),
                Path(local) if (local := (not remote and path) or environ.get("AZUREML_MODEL_DIR", "")) else None,
                path if remote else "",
            )
    return Place(None, PORT, None)


def _port(platform: Platform, environ: Mapping[str, str]) -> int:
    said = environ.get(platform.port, "") if platform.port else ""
    if not said:
        return platform.default_port
    if not said.isdecimal() or not 0 < int(said) < 1 << 16:
        raise InvalidSetting(f"{platform.port} is {said[:40]!r}, and {platform.name} sets a port with it")
    return int(said)
