"""What every command shows and how: the two consoles, progress, errors on one screen with their exit codes."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from score.cli.flags import Given
from score.errors import DeviceOutOfMemory, LoadError, RequestError, ScoreError, laid_out
from score.settings import Settings
from score.weights.progress import Track

# In a pipe, no line is broken. Nothing is highlighted by rich's patterns, which take very long over hostile names.
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 1000)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Model = Annotated[Path, typer.Argument(help="The checkpoint, or the folder that holds it.")]


def guarded(settings: Settings) -> Settings:
    """Have this process end where a model does not come back, and get errors where there is no more memory."""
    from score.inference import confine, watchdog

    confine.limit_memory(settings.model_dir)
    watchdog.watch(settings.stuck_after_ms / 1000, watchdog.end_command)
    return settings


@dataclass(frozen=True)
class Asked:
    """A command as it was given: its name, what stands before the checkpoint, the checkpoint, and its options."""

    command: str
    path: Path
    given: Given
    before: tuple[str, ...] = ()


@contextmanager
def errors_shown(asked: Asked | None = None) -> Iterator[None]:
    """Any error of ours on one screen, on standard error, and its exit code; a file that can't be opened or written is
    wrong usage. Where it is known what mends the error of a command that was `asked`, the screen ends in that."""
    try:
        yield
    except ScoreError as error:
        err.print(screen(error.as_dict()))
        if asked is not None and isinstance(error, LoadError) and (command := _mended(error, asked)):
            err.print(f"[bold]Try[/]:\n\n{escape(command)}\n")
        raise typer.Exit(4 if isinstance(error, RequestError) else error.exit_code) from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        lack = DeviceOutOfMemory(f"the memory does not suffice: {str(error)[:200]}")
        err.print(screen(lack.as_dict()))
        raise typer.Exit(lack.exit_code) from None
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None


def _mended(error: LoadError, asked: Asked) -> str | None:
    """The command with which the checkpoint loads."""
    with busy("looking for what mends it"), contextlib.suppress(Exception):  # the error itself has been shown
        from score.inference import remedies

        settings = Settings.load(asked.path, **asked.given)
        if (found := remedies.find(error, settings)) is not None:
            return remedies.command(("score", asked.command, *asked.before), asked.path, asked.given.said, found)
    return None


@contextmanager
def busy(what: str) -> Iterator[Track]:
    """Progress for people, and nothing where the output is no terminal (FORCE_COLOR, as Jupyter sets it, makes none).

    The bar moves by itself until the caller goes through names with what it is given here; then it counts them.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(escape(what), total=None)

        def track(names: Sequence[str]) -> Iterator[str]:
            progress.update(task, total=len(names), completed=0)
            for name in names:
                yield name
                progress.advance(task)
            progress.update(task, total=None)

        yield track


def screen(error: dict[str, str]) -> str:
    """`ScoreError.screen`, with its labels set off."""
    return set_off(laid_out(error))


def set_off(lines: Sequence[tuple[str, str]]) -> str:
    styles = {"": "none", "What to do": "bold", "More": "bold"}  # the code's is the rest
    return "\n".join(f"[{styles.get(label, 'bold red')}]{label}[/]{escape(text)}" for label, text in lines)
