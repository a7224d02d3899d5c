"""`score package`: a folder that is ready to be registered and deployed."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from score.cli.console import Asked, Model, busy, err, errors_shown, out
from score.cli.flags import Given, with_settings
from score.settings import Settings


@with_settings
def package(
    path: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; it must not hold anything.")],
    given: Given,
    endpoint: Annotated[str, typer.Option(help="The endpoint in deployment.yml; else the model's name.")] = "",
    image: Annotated[str, typer.Option(help="The image in deployment.yml.")] = "",
) -> None:
    """Write a folder that is ready to be registered and deployed."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise typer.BadParameter(f"{output} exists, and is not an empty folder", param_hint="--output")
    asked = Asked("package", path, given, ("--output", str(output)))
    with errors_shown(asked), busy(f"packaging {path.name}") as track:
        from score.cli import packaging

        written = packaging.package(Settings.load(path, **given), output, endpoint, image or None, track)
    for file in written.files:
        out.print(escape(str(file)))
    for note in written.notes:
        err.print(f"[yellow]note[/]: {escape(note)}")
