"""The command line: one file a command. Torch takes two seconds to import, so each command imports what it needs.

Exit codes: 0 done; 1 two checkpoints differ; 2 wrong usage; 3 the checkpoint can't be loaded; 4 the request was
refused.
"""

import sys
from typing import Annotated

import typer

from score import __version__
from score.cli.check import check
from score.cli.convert import convert
from score.cli.explain import explain
from score.cli.inspect import inspect
from score.cli.package import package
from score.cli.predict import predict
from score.cli.serve import serve
from score.cli.tune import tune
from score.inference import allocator

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
for command in (inspect, check, serve, predict, tune, convert, package, explain):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"loadstone {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Serve any PyTorch checkpoint.

    Exit codes:
    0  done
    1  two checkpoints differ
    2  wrong usage
    3  the checkpoint can't be loaded
    4  the request was refused
    """


def main() -> None:
    """The command as it is typed."""
    if sys.argv[1:2] == ["tune"]:  # what it measures is to be what serves
        allocator.restart()
    app()


if __name__ == "__main__":
    main()
