"""`score convert`: a checkpoint in another format."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from score.cli.console import Model, busy, errors_shown, guarded, out
from score.settings import Settings


class Target(Enum):
    """What `convert` writes."""

    safetensors = "safetensors"
    torch_export = "torch-export"


def convert(
    path: Model,
    output: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[Target, typer.Option(help="The format to write.")] = Target.safetensors,
) -> None:
    """Write a checkpoint's weights as safetensors, or the whole model as a torch.export program."""
    if output.exists() and not output.is_file():  # a folder; or a device, which would be replaced by a file
        raise typer.BadParameter(f"{output} exists, and is not a plain file", param_hint="OUTPUT")
    with errors_shown(), busy(f"converting {path.name}") as track:
        from score.cli import conversion

        settings = guarded(Settings.load(path))
        if to is Target.safetensors:
            written = conversion.to_safetensors(settings, output, track)
        else:
            written = conversion.to_torch_export(settings, output)
    out.print(escape(f"wrote {output}: {written}"))
