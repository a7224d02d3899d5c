"""`score predict`: answer one request from a file, without a server."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from score.cli.console import Asked, busy, errors_shown, guarded
from score.cli.flags import Given, with_settings
from score.settings import Settings


@with_settings
def predict(
    file: Annotated[Path, typer.Argument(help="The request's body; - for standard input.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The checkpoint, or its folder.")],
    given: Given,
) -> None:
    """Answer one request from a file, without a server."""
    with errors_shown(Asked("predict", model, given, (str(file), "--model"))):
        with busy(f"loading {model.name}"):
            from score.codecs.base import Body
            from score.inference.pipeline import infer, load_model

            served = load_model(guarded(Settings.load(model, **given)))
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        answer = infer(served, Body(body)).encoded.body
    sys.stdout.buffer.write(answer + b"\n")
