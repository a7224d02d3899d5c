"""The command line: `score inspect`, `check`, `serve`, `predict`, `convert`, `package`, `explain`.

Exit codes: 0 done; 1 two checkpoints differ; 2 wrong usage; 3 the checkpoint can't be loaded; 4 the request was
refused.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from score import __version__
from score.cli import manual
from score.errors import DeviceOutOfMemory, LoadError, RequestError, ScoreError, by_code, laid_out, one_line
from score.settings import Settings
from score.weights.hashing import begin_sha256
from score.weights.progress import Track

if TYPE_CHECKING:  # torch takes two seconds to import, and `--help` needs none of it
    pass

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
# In a pipe, no line is broken. Nothing is highlighted by rich's patterns, which take very long over hostile names.
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 1000)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Model = Annotated[Path, typer.Argument(help="The checkpoint, or the folder that holds it.")]


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


class Target(Enum):
    """What `convert` writes."""

    safetensors = "safetensors"
    torch_export = "torch-export"


@app.command()
def inspect(
    path: Model,
    other: Annotated[Path | None, typer.Argument(help="A second checkpoint: what differs is shown.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write what is shown to this file, as a page.")] = None,
) -> None:
    """Say what a file is and holds, without running anything from it; or what differs between two."""
    if other is not None:
        _compare(path, other, as_json, page)
        return
    with _errors_shown():
        with _busy(f"reading {path.name}") as track:
            begin_sha256(path)
            from score.cli import inspection, render_html, render_text

            settings = _guarded(Settings.load(path))
            found, contents = inspection.look(path, settings)
            only_json = as_json and page is None  # then no tensor's values need to be read
            screen = None if contents is None or only_json else inspection.screen(found, contents, settings, track)
        if as_json:
            sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2, default=str) + b"\n")
        elif screen is None:
            err.print(_screen(found["error"]))
        else:
            render_text.show(screen, out)
        if contents is None:
            raise typer.Exit(LoadError.exit_code)
        if screen is not None and page is not None:
            page.write_text(render_html.page(path.name, screen))


def _compare(first: Path, second: Path, as_json: bool, page: Path | None) -> None:
    """What differs between two checkpoints; exit code 1 where anything does."""
    with _errors_shown():
        with _busy(f"comparing {first.name} and {second.name}") as track:
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


@app.command()
def check(path: Model) -> None:
    """Load a checkpoint and answer one made-up request, exactly as the server would."""
    with _errors_shown():
        with _busy(f"loading {path.name}"):
            from score.cli.render_text import shortened
            from score.codecs.registry import Body
            from score.errors import InputsUnknown
            from score.inference import infer_signature
            from score.inference.pipeline import infer, load_model
            from score.weights import versions

            settings = _guarded(Settings.load(path))
            served = load_model(settings)
        for line in served.report.lines():
            out.print(escape(line))
        for difference in versions.differences(served.report.metadata):
            if difference.here is not None:
                advice = f"; to have the same, pin {difference.pin}" if difference.newer else ""
                out.print(f"[{'yellow' if difference.newer else 'dim'}]{escape(str(difference) + advice)}[/]")
        out.print(escape(one_line(str(served.signature))))
        if not served.signature.known:
            raise InputsUnknown(f"{path.name} is loaded, but nothing says what shape of input it takes")
        body = orjson.dumps({"inputs": infer_signature.as_lists(infer_signature.synthetic(served.signature))})
        out.print(escape(f"answers {shortened(infer(served, Body(body)).encoded.body.decode())}"))
        out.print("[green]ready to serve[/green]")


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="The request's body; - for standard input.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The checkpoint, or its folder.")],
) -> None:
    """Answer one request from a file, without a server."""
    with _errors_shown():
        with _busy(f"loading {model.name}"):
            from score.codecs.registry import Body
            from score.inference.pipeline import infer, load_model

            served = load_model(_guarded(Settings.load(model)))
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        answer = infer(served, Body(body)).encoded.body
    sys.stdout.buffer.write(answer + b"\n")


@app.command()
def serve(
    path: Model,
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 5001,
) -> None:
    """Serve a checkpoint over HTTP, with the server that Azure ML runs."""
    from score.server.gunicorn_config import ARGUMENTS as GUNICORN_ARGUMENTS  # and so the worker, for no other command

    root = Path(__file__).resolve().parents[2]
    server, model = Path(sys.executable).parent / "azmlinfsrv", str(path.absolute())
    os.environ["AML_APP_ROOT"] = str(root)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # else azmlinfsrv's banner comes last, after a diagnosis
    os.environ["AZUREML_MODEL_DIR"] = model
    os.environ["GUNICORN_CMD_ARGS"] = f"{GUNICORN_ARGUMENTS} {os.environ.get('GUNICORN_CMD_ARGS', '')}".strip()
    entry = str(root / "score" / "main.py")
    named = os.environ.get("SCORE_ARCHITECTURE", "").rpartition(":")
    if named[0].endswith(".py") and Path(named[0]).is_file():
        os.environ["SCORE_ARCHITECTURE"] = f"{Path(named[0]).absolute()}:{named[2]}"
    os.chdir(root)  # gunicorn imports from where it runs, and that may be a folder from strangers
    os.execv(  # noqa: S606  # our own server, with a path that is not parsed by any shell
        server, [str(server), "--entry_script", entry, "--model_dir", model, "--port", str(port)]
    )


@app.command()
def convert(
    path: Model,
    output: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[Target, typer.Option(help="The format to write.")] = Target.safetensors,
) -> None:
    """Write a checkpoint's weights as safetensors, or the whole model as a torch.export program."""
    if output.exists() and not output.is_file():  # a folder; or a device, which would be replaced by a file
        raise typer.BadParameter(f"{output} exists, and is not a plain file", param_hint="OUTPUT")
    with _errors_shown(), _busy(f"converting {path.name}") as track:
        from score.cli import conversion

        settings = _guarded(Settings.load(path))
        if to is Target.safetensors:
            written = conversion.to_safetensors(settings, output, track)
        else:
            written = conversion.to_torch_export(settings, output)
    out.print(escape(f"wrote {output}: {written}"))


@app.command()
def package(
    path: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; it must not hold anything.")],
    endpoint: Annotated[str, typer.Option(help="The endpoint in deployment.yml; else the model's name.")] = "",
    image: Annotated[str, typer.Option(help="The image in deployment.yml.")] = "",
) -> None:
    """Write a folder that is ready to be registered and deployed."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise typer.BadParameter(f"{output} exists, and is not an empty folder", param_hint="--output")
    with _errors_shown(), _busy(f"packaging {path.name}") as track:
        from score.cli import packaging

        written = packaging.package(Settings.load(path), output, endpoint, image or None, track)
    for file in written.files:
        out.print(escape(str(file)))
    for note in written.notes:
        err.print(f"[yellow]note[/]: {escape(note)}")


@app.command()
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
        out.print(f"{escape(manual.meaning(kind))}\n")
        out.print(_set_off(laid_out(kind(kind.example).as_dict())[:-1]))  # without where to read more: this is it
        return
    for name, kind in kinds.items():
        out.print(f"[bold]{name:24}[/] {escape(manual.cause(kind))}")


def _guarded(settings: Settings) -> Settings:
    """Have this process end where a model does not come back, and get errors where there is no more memory."""
    from score.inference import confine, watchdog

    confine.limit_memory(settings.model_dir)
    watchdog.watch(settings.stuck_after_ms / 1000, watchdog.end_command)
    return settings


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Any error of ours on one screen, on standard error, and its exit code; a file that can't be opened or written is
    wrong usage."""
    try:
        yield
    except ScoreError as error:
        err.print(_screen(error.as_dict()))
        raise typer.Exit(4 if isinstance(error, RequestError) else error.exit_code) from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        lack = DeviceOutOfMemory(f"the memory does not suffice: {str(error)[:200]}")
        err.print(_screen(lack.as_dict()))
        raise typer.Exit(lack.exit_code) from None
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None


@contextmanager
def _busy(what: str) -> Iterator[Track]:
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


def _screen(error: dict[str, str]) -> str:
    """`ScoreError.screen`, with its labels set off."""
    return _set_off(laid_out(error))


def _set_off(lines: Sequence[tuple[str, str]]) -> str:
    styles = {"": "none", "What to do": "bold", "More": "bold"}  # the code's is the rest
    return "\n".join(f"[{styles.get(label, 'bold red')}]{label}[/]{escape(text)}" for label, text in lines)


if __name__ == "__main__":
    app()
