"""`score explain`: what an error means."""

from typing import Annotated

import typer
from rich.markup import escape

from score.cli.console import out, set_off
from score.errors import by_code, laid_out


def explain(
    code: Annotated[
        str,
        typer.Argument(
            help="The code of an error; without one, all are listed.",
            autocompletion=lambda incomplete: [code for code in by_code() if code.startswith(incomplete)],
        ),
    ] = "",
) -> None:
    """Say what an error means: its cause, an example, and the remedy."""
    kinds = by_code()
    if code and code not in kinds:
        raise typer.BadParameter(f"there is no error {code}; `score explain` lists them", param_hint="CODE")
    if code:
        kind = kinds[code]
        out.print(f"{escape(kind.meaning())}\n")
        out.print(set_off(laid_out(kind(kind.example).as_dict())[:-1]))  # without where to read more: this is it
        why, worked = kind.explained()
        out.print(f"\n[bold]How it comes about[/]\n{escape(why)}\n\n[bold]An example[/]\n{escape(worked)}")
        return
    for name, kind in kinds.items():
        out.print(f"[bold]{name:24}[/] {escape(kind.cause)}")
