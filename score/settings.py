"""Every setting, from one place: environment variables over `score.toml` in the model folder over defaults."""

import difflib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from score.errors import InvalidSetting

TOML_NAME = "score.toml"
LOCAL = "LOADSTONE_LOCAL"  # set by `score serve`: the log is read by a person
METRICS = "LOADSTONE_METRICS"  # set by gunicorn's master: the folder in which several workers count together
RANK = "LOADSTONE_RANK"  # of one worker among several, from 0: set by gunicorn's master
MOST_NESTED = 8  # folders that hold nothing but one other
# What protects the server, and so is the deployment's alone.
_GUARDS = frozenset(
    [
        "max_body_mb",
        "max_held_mb",
        "max_batch",
        "tolerance",
        "tune_seconds",
        "max_queue",
        "max_new_tokens",
        "max_text_characters",
        "max_image_pixels",
        "max_audio_seconds",
        "scoring_timeout_ms",
        "log_requests",
        "docs_url",
        "collect_data",
        "confine",
        "stuck_after_ms",
        "on_load_error",
        "require_warm_up",
        "base",
        "model_dir",
        "model_name",
        "models",
        "load_models",
        "max_memory_mb",
        "max_unpacked_gb",
        "grpc_port",
    ]
)
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]")  # what a name in a path can't have without being escaped
MOST_TOML = 100_000  # bytes
LIBRARIES = ("torchvision", "timm", "transformers")  # whose architectures `library:name` names


def _words(value: Any) -> Any:
    """`a, b c` as a list, since that is how several values are put into one environment variable."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _lines(value: Any) -> Any:
    """`a, b` as a list; a label may hold spaces, and a JSON list may hold commas."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]


def _object(value: Any) -> Any:
    """A JSON object given as text; anything else is left for the type to judge."""
    return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("{") else value


def folders(folder: Path) -> Iterator[Path]:
    """A model folder, and the one in it as long as a folder holds nothing but one other: Azure ML keeps the registered
    folder's own name below AZUREML_MODEL_DIR."""
    for _ in range(MOST_NESTED):
        yield folder
        try:
            inside = list(folder.iterdir())
        except OSError:
            return
        if len(inside) != 1 or inside[0].is_symlink() or not inside[0].is_dir():
            return
        folder = inside[0]


def _is_own(toml: Path) -> bool:
    """Whether a file of sane size is there, and no link leads elsewhere."""
    if not os.path.isfile(toml) or toml.is_symlink():  # noqa: PTH113  # False where it can't be read
        return False
    if toml.stat().st_size > MOST_TOML:
        raise InvalidSetting(f"{TOML_NAME} takes {toml.stat().st_size:,} bytes, too much for what it is")
    return True


class _ModelFolderToml(TomlConfigSettingsSource):
    """`score.toml` travels with the checkpoint, so it is as untrusted as the checkpoint: it can't grant trust, nor
    name a class outside the registry (which would import and call whatever it names), nor set what protects the server.
    """

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        granting = [name for name in values if name.startswith("trust_") or name.lower() in _GUARDS]
        library, colon, _ = str(values.get("architecture", "")).partition(":")
        if colon and library not in LIBRARIES:
            granting.append("architecture")
        if colon and not _of_numbers(values.get("architecture_kwargs", {})):
            granting.append("architecture_kwargs")  # a library opens files and addresses that its arguments name
        if granting:
            raise InvalidSetting(
                f"{TOML_NAME} may not set {', '.join(granting)}"
                + (f" to {values['architecture']!r}" if "architecture" in granting else ""),
                hint="Set it as a SCORE_ variable of the deployment: a model folder can't grant trust to itself.",
            )
        return values


def _of_numbers(kwargs: Any) -> bool:
    """Whether all of some arguments are numbers, yes or no, or lists of these."""
    try:
        found = _object(kwargs)
    except ValueError:
        return True  # it is judged as a setting
    flat = [item for value in found.values() for item in (value if isinstance(value, list) else [value])]
    return all(isinstance(item, (int, float)) or item is None for item in flat)


class Settings(BaseSettings):
    """What decides how a checkpoint is found, loaded and served.

    Each field is read from `SCORE_<NAME>`, then from `score.toml` in the model folder. `model_dir` comes from
    `AZUREML_MODEL_DIR`, as Azure ML sets it.
    """

    model_config = SettingsConfigDict(env_prefix="SCORE_", extra="forbid", env_ignore_empty=True)

    model_dir: Path | None = Field(
        None,
        validation_alias="AZUREML_MODEL_DIR",
        description="The file or folder that holds the checkpoint.",
    )
    checkpoint: str | None = Field(
        None, description="Which checkpoint, as a path below the model folder, where there are several."
    )
    weights: str | None = Field(
        None, description="Which weights inside the checkpoint: a dotted path, `ema`, or `.` for the root."
    )
    prefix: str | None = Field(
        None, description="The key prefix to strip from the weights, where two prefixes match equally well."
    )
    architecture: str | None = Field(
        None,
        description="The model's class: a registered name, `package.module:Class`, or `path/to/file.py:Class`.",
    )
    architecture_kwargs: Annotated[dict[str, Any], NoDecode, BeforeValidator(_object)] = Field(
        {}, description="The constructor's keyword arguments, as a JSON object."
    )
    inputs: Annotated[str | dict[str, str] | None, NoDecode, BeforeValidator(_object)] = Field(
        None,
        description="What the model takes, such as `float32[N, 1, 8, 8]`; for several inputs a JSON object by name.",
    )
    labels: Annotated[list[str], NoDecode, BeforeValidator(_lines)] = Field(
        [], description="The names of the classes, in order, separated by commas; answers with `top_k` show them."
    )
    image: Annotated[str | dict[str, Any] | None, NoDecode, BeforeValidator(_object)] = Field(
        None,
        description="How images (PNG, JPEG) become the model's input: `imagenet`, or a JSON object with `resize`, "
        "`crop`, `mean`, `std`, `scale`, `interpolation`.",
    )
    task: str | None = Field(
        None,
        description="What a model of transformers answers with: a task such as `text-classification`, or `tensors` for "
        "its raw outputs. Otherwise the folder or the model's class says.",
    )
    max_new_tokens: int = Field(
        1024, ge=1, description="The most tokens that a request may have a model generate for one item."
    )
    max_text_characters: int = Field(
        1_000_000, ge=1, description="The longest text, or pair of texts, that a request may bring as one item."
    )
    max_image_pixels: int = Field(
        33_000_000, ge=1, description="The largest picture that a request may bring, as its width times its height."
    )
    max_audio_seconds: float = Field(600, gt=0, description="The longest recording that a request may bring.")
    model_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="The name that clients know the model by; else that of its file or folder, or of the registered "
        "model on Azure ML.",
    )
    models: Annotated[list[str], NoDecode, BeforeValidator(_words)] = Field(
        [],
        description="Several models in one server, each by its name: `all` checkpoints below the model folder, or the "
        "names of some.",
    )
    load_models: Literal["on_demand", "at_start"] = Field(
        "on_demand", description="When several models are loaded: each with its first request, or all at the start."
    )
    max_memory_mb: float | None = Field(
        None,
        gt=0,
        description="Megabytes of weights that several models may have loaded at a time; above that, those that were "
        "not used for longest make room.",
    )
    grpc_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="The port on which the Open Inference Protocol is spoken over gRPC, too (needs the extra `grpc`).",
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="`auto`, `cpu`, `cuda` or `cuda:N`."
    )
    base: Path | None = Field(
        None,
        description="The base model of an adapter (LoRA and other PEFT), where it is not in the model folder, or where "
        "several are: a path, absolute, or from the model folder or the working folder.",
    )
    adapters: Literal["auto", "merged", "beside"] = Field(
        "auto",
        description="Whether LoRA is merged into the weights of its base model, or runs beside its layers, so that "
        "several adapters share one base model; `auto` merges the only one.",
    )
    read: Literal["auto", "mmap", "read"] = Field(
        "auto", description="How weights are brought in: mapped, read, or by the file system (network mounts: read)."
    )
    verify: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether the checksums in a file are compared with its bytes as it is loaded: all but what is "
        "mapped from a network mount, all, or none.",
    )
    max_unpacked_gb: float = Field(
        20,
        gt=0,
        description="Gigabytes that an archive may take in the temporary folder, where it is inflated; what it holds "
        "as it is stays in it, and takes none.",
    )
    trust_code: bool = Field(False, description="Whether code from any file in the model folder may run.")
    trust_sha256: Annotated[frozenset[str], NoDecode, BeforeValidator(_words)] = Field(
        frozenset(), description="SHA-256 digests of the files whose code may run."
    )
    confine: Literal["auto", "require", "off"] = Field(
        "auto",
        description="Whether the worker, once the model is loaded, gives up writing outside of the temporary folder, "
        "starting programs and opening connections: as far as the kernel has it, only if it has all, or not at all.",
    )
    stuck_after_ms: int = Field(
        300_000,
        ge=0,
        description="A forward pass that takes longer is taken for one that never ends: the worker ends, and another "
        "starts. 0: never.",
    )
    require_warm_up: bool = Field(
        False,
        description="Whether a model that has answered no made-up request once it is loaded is an error, and not "
        "served.",
    )
    on_load_error: Literal["exit", "serve"] = Field(
        "exit",
        description="What to do when the model can't be loaded: end, or stay up and answer every request to `/score` "
        "with the diagnosis and 503. For finding out what is wrong: the liveness probe says healthy all the same.",
    )
    max_body_mb: float = Field(100, gt=0, description="The largest request body, in megabytes, after decompression.")
    max_held_mb: float = Field(
        1000, gt=0, description="Megabytes of request bodies in memory at a time; above that, requests get 429."
    )
    max_batch: int = Field(64, ge=1, description="The most rows that run as one forward pass.")
    backend: str | None = Field(
        None,
        description="How the model is run: `eager`, torch as it is; `auto`, the quickest way whose answers agree, "
        "tried at the start; or one by its name (`score tune` lists them). Otherwise as a `tuned.json` beside the "
        "checkpoint says.",
    )
    tolerance: float = Field(
        1e-3,
        ge=0,
        description="How far the answers of another backend may be from torch's, as a share of the largest number in "
        "an answer; of classes, the best one has to be the same too.",
    )
    tune_seconds: float = Field(
        120, gt=0, description="Seconds that trying backends may take, at the start (`auto`) or in `score tune`."
    )
    max_queue: int = Field(256, ge=1, description="The most requests that wait for the model; above that they get 429.")
    scoring_timeout_ms: int = Field(
        60_000,
        gt=0,
        validation_alias=AliasChoices("SCORING_TIMEOUT_MS", "scoring_timeout_ms"),
        description="Milliseconds after which a request that still waits for the model gets 504, and is not run.",
    )
    docs_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="The address of a site with this project's documentation: errors name their place on it, and not "
        "the command `score explain`.",
    )
    log_requests: bool = Field(True, description="Whether each request is a line in the log.")
    collect_data: bool = Field(
        False, description="Whether inputs and outputs go to Azure ML's data collector (needs `azureml-ai-monitoring`)."
    )

    @field_validator("trust_sha256")
    @classmethod
    def _digests(cls, digests: frozenset[str]) -> frozenset[str]:
        lowered = frozenset(digest.lower().removeprefix("sha256:") for digest in digests)
        for digest in lowered:
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ValueError(f"{digest!r} is not a SHA-256 digest (64 hexadecimal digits)")
        return lowered

    def served_as(self) -> tuple[str, str]:
        """The name and the version that clients know the model by. Azure ML has them in the path:
        `azureml-models/<name>/<version>`."""
        path = Path(os.path.abspath(self.model_dir or "model"))  # noqa: PTH100  # resolve() would follow links
        registered = len(path.parts) > 3 and path.parts[-3] == "azureml-models"
        name, version = (path.parts[-2], path.name) if registered else (path.name, "1")
        known = not registered and path.is_file()
        return self.model_name or readable_name(path.stem if known else name), version

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        folder = init_settings().get("AZUREML_MODEL_DIR") or os.environ.get("AZUREML_MODEL_DIR") or ""
        places = (each / TOML_NAME for each in folders(Path(folder))) if folder else ()
        found = next((toml for toml in places if _is_own(toml)), None)
        return init_settings, env_settings, _ModelFolderToml(settings_cls, toml_file=found)

    @classmethod
    def load(cls, model_dir: Path | None = None, **overrides: Any) -> "Settings":
        """Read the settings. Raises `InvalidSetting` naming each wrong one and what it may be."""
        given = {name: value for name, value in overrides.items() if value is not None}
        for name in given:
            if name not in cls.model_fields:
                near = difflib.get_close_matches(name, cls.model_fields, n=1)
                raise InvalidSetting(f"there is no setting {name}" + (f"; did you mean {near[0]}?" if near else ""))
        if model_dir is not None:
            given["AZUREML_MODEL_DIR"] = model_dir
        try:
            settings = cls(**given)
        except ValidationError as error:
            raise InvalidSetting("; ".join(map(_explain, error.errors()))) from None
        except (ValueError, RecursionError) as error:  # score.toml that is not TOML, JSON that is not JSON
            raise InvalidSetting(f"{TOML_NAME} or a SCORE_ variable can't be read: {error}") from None
        _refuse_misspelt_variables()
        return settings


def readable_name(text: str) -> str:
    """A name that needs no escape in a path."""
    return _NO_NAME.sub("_", text).strip("_.-") or "model"


def option(field: str) -> str:
    """The option of the command line that sets a field."""
    named = {"architecture_kwargs": "kwargs", "trust_sha256": "trust", "image": "image-recipe"}
    return f"--{named.get(field, field).replace('_', '-')}"


def variable(field: str) -> str:
    """The environment variable a field is read from."""
    named = {"model_dir": "AZUREML_MODEL_DIR", "scoring_timeout_ms": "SCORING_TIMEOUT_MS"}
    return named.get(field, field if field in named.values() else f"SCORE_{field.upper()}")


def _explain(error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else "settings"
    if error["type"] == "extra_forbidden":
        return f"{TOML_NAME} has an unknown setting {name!r}"
    return f"{variable(name)}={error['input']!r:.200}: {error['msg']}"


def _refuse_misspelt_variables() -> None:
    """A misspelt `SCORE_` variable would otherwise be ignored in silence, which is how deployments go wrong. Others are
    left alone: Kubernetes, for one, sets `SCORE_SERVICE_HOST` where a service is called `score`."""
    known = [variable(field) for field in Settings.model_fields]
    for name in sorted(os.environ):
        if name.startswith("SCORE_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if near:
                raise InvalidSetting(f"there is no setting {name}; did you mean {near[0]}?")
