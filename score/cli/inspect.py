"""`score inspect`: what a file is and holds, or what differs between two."""

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from score.cli.console import Model, busy, err, errors_shown, guarded, out
from score.cli.console import screen as error_screen
from score.errors import LoadError
from score.imports.lazily import torch_when_used
from score.settings import Settings
from score.weights.hashing import begin_sha256


def inspect(
    path: Model,
    other: Annotated[Path | None, typer.Argument(help="A second checkpoint: what differs is shown.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor: dtype, shape and size.")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write what is shown to this file, as a page.")] = None,
) -> None:
    """Say what a file is and holds, without running anything from it; or what differs between two."""
    if other is not None:
        _compare(path, other, as_json, page)
        return
    with errors_shown():
        with busy(f"reading {path.name}") as track:
            begin_sha256(path)
            torch_when_used()
            from score.cli import inspection, render_html, render_text

            settings = guarded(Settings.load(path))
            found, opened = inspection.look(path, settings)
            only_json = as_json and page is None  # then no tensor's values need to be read
            screen = None if opened is None or only_json else inspection.screen(found, opened, track)
        if as_json:
            sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2, default=str) + b"\n")
        elif screen is None:
            err.print(error_screen(found["error"]))
        else:
            render_text.show(screen, out)
            if tensors:
                render_text.show_tensors(found, out)
        if opened is None:
            raise typer.Exit(LoadError.exit_code)
        if screen is not None and page is not None:
            page.write_text(render_html.page(path.name, screen))


def _compare(first: Path, second: Path, as_json: bool, page: Path | None) -> None:
    """What differs between two checkpoints; exit code 1 where anything does."""
    with errors_shown():
        with busy(f"comparing {first.name} and {second.name}") as track:
            from score.cli import render_html, render_text
            from score.weights.compare import compare

            found = compare(first, second, track)
        if as_json:
            sys.stdout.buffer.write(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2) + b"\n")
        else:
            render_text.show_comparison(found, out)
        if page is not None:
            page.write_text(render_html.comparison_page(found))
    if not found.equal:
        raise typer.Exit(1)
