"""Every setting as an option of a command, made from the settings class, so that none is forgotten."""

import functools
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from score.settings import Settings, option, variable


class Given(dict[str, Any]):
    """What was given on the command line, by the settings' names; `said` is how."""

    said: tuple[str, ...] = ()


_HELP = {
    "architecture_kwargs": "An argument of the constructor, as `num_classes=5`; may be given several times, or all at "
    "once as a JSON object.",
    "trust_sha256": "A file whose code may run, or the SHA-256 of one; may be given several times.",
}
_SEVERAL = frozenset(("architecture_kwargs", "trust_sha256"))


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each setting; what was given comes to its parameter `given`."""
    fields = {name: field for name, field in Settings.model_fields.items() if name != "model_dir"}

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        said = {name: arguments.pop(f"setting_{name}") for name in fields}
        command(**arguments, given=_parsed(said))

    own = [each for name, each in inspect.signature(command).parameters.items() if name != "given"]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    for name, field in fields.items():
        annotation = _option(name, field.annotation, field.description or "")
        parameters.append(
            inspect.Parameter(f"setting_{name}", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]  # typer would look at the signature of what is wrapped
    return run


def to_environment(given: Mapping[str, Any]) -> None:
    """Set the variables that say the same, for another process."""
    for name, value in given.items():
        os.environ[variable(name)] = (
            " ".join(sorted(value)) if isinstance(value, frozenset) else json.dumps(value)
            if isinstance(value, (dict, bool)) else str(value)
        )  # fmt: skip


def _option(name: str, kind: Any, description: str) -> Any:
    text = _HELP.get(name, description).replace("`", "")
    if kind is bool:
        names = (option(name), f"--no-{name.replace('_', '-')}")
        return Annotated[bool | None, typer.Option("/".join(names), help=text, rich_help_panel="Settings")]
    metavar = {"trust_sha256": "FILE", "architecture_kwargs": "NAME=VALUE"}.get(name, "TEXT")
    made = typer.Option(option(name), help=text, metavar=metavar, rich_help_panel="Settings")
    return Annotated[list[str] | None, made] if name in _SEVERAL else Annotated[str | None, made]


def _parsed(said: Mapping[str, Any]) -> Given:
    found = Given({name: value for name, value in said.items() if value not in (None, [])})
    found.said = tuple(word for name, value in found.items() for word in _spoken(name, value))
    if "architecture_kwargs" in found:
        found["architecture_kwargs"] = _keyword_arguments(found["architecture_kwargs"])
    if "trust_sha256" in found:
        found["trust_sha256"] = frozenset(map(_digest, found["trust_sha256"]))
    return found


def _spoken(name: str, value: Any) -> list[str]:
    """An option as it was given."""
    if isinstance(value, bool):
        return [option(name) if value else f"--no-{option(name)[2:]}"]
    return [word for each in (value if isinstance(value, list) else [value]) for word in (option(name), each)]


def _keyword_arguments(pairs: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        if pair.lstrip().startswith("{"):
            found |= _value(pair)
            continue
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--kwargs")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    """JSON where it is; a word is itself."""
    try:
        return json.loads(text)
    except ValueError:
        if text.lstrip().startswith(("{", "[")):
            raise typer.BadParameter(f"{text!r} is not JSON", param_hint="--kwargs") from None
        return {"True": True, "False": False, "None": None}.get(text, text)


def _digest(said: str) -> str:
    from score.weights.hashing import sha256

    if re.fullmatch(r"(sha256:)?[0-9a-fA-F]{64}", said) and not Path(said).exists():
        return said
    if not Path(said).exists():
        raise typer.BadParameter(f"there is no file {said}", param_hint="--trust")
    return sha256(Path(said))
