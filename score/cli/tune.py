"""`score tune`: the quickest way to run a model whose answers are torch's own, kept beside the checkpoint."""

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from score.cli.console import Asked, Model, busy, err, errors_shown, guarded, out
from score.cli.flags import Given, with_settings
from score.errors import InputsUnknown, InvalidSetting
from score.settings import Settings

_MOST_REQUESTS = 1000


@with_settings
def tune(
    path: Model,
    given: Given,
    requests: Annotated[
        Path | None, typer.Option("--requests", help="Bodies of real requests, one JSON a line.")
    ] = None,
    backends: Annotated[str, typer.Option("--only", help="Backends to try, by name, separated by commas.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
) -> None:
    """Try ways to run a model, and keep the quickest whose answers agree with torch's."""
    with errors_shown(Asked("tune", path, given)):
        with busy(f"loading {path.name}"):
            import torch

            from score.inference import cores
            from score.inference.pipeline import load_model
            from score.inference.tuning import apply
            from score.inference.tuning.backends import BACKENDS
            from score.weights import checksums
            from score.weights.hashing import file_sha256
            from score.weights.locate import find_checkpoint

            names = backends.replace(",", " ").split()
            if unknown := [name for name in names if name not in BACKENDS]:
                raise InvalidSetting(f"there is no backend {', '.join(unknown)}, only {', '.join(BACKENDS)}")
            settings = guarded(Settings.load(path, **{**given, "backend": "eager"}))
            torch.set_num_threads(cores.threads())
            predictor = load_model(settings)
            checkpoint = find_checkpoint(settings).path
        bodies = _asked(predictor, requests) if requests else ()
        with busy("trying backends"):
            outcome = apply.tune(predictor, names, bodies, told=lambda name: err.print(f"[dim]{escape(name)} ...[/]"))
        if outcome is None:
            raise InputsUnknown(
                f"{path.name} is loaded, and nothing says what it takes, or its answers can't be compared"
            )
        written = None if dry else _kept(checkpoint, outcome, settings)
        if as_json:
            found: dict[str, Any] = {"best": outcome.best.name, "tried": [each.as_dict() for each in outcome.tried]}
            found |= {"placement": outcome.placement.as_dict(), "written": str(written) if written else None}
            sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
            return
        out.print(_table(outcome, settings.tolerance))
        for table in _placement_tables(outcome):
            out.print(table)
        speed = outcome.best.speedup(outcome.base)
        out.print(f"[green]{escape(outcome.best.name)}[/]: {speed:.1f} x as quick as torch as it is")
        if written:
            out.print(f"written to {escape(str(written))}: served so from now on; SCORE_BACKEND=eager goes over it")
            for name in getattr(BACKENDS[outcome.best.name], "CODE", ()):
                digest = file_sha256(written.with_name(name))
                out.print(f"{escape(name)} is native code: serve it with [bold]SCORE_TRUST_SHA256={digest}[/]")
            lists = [folder / checksums.NAME for folder in written.parents if (folder / checksums.NAME).is_file()]
            for each in lists[:1]:
                out.print(f"[yellow]{escape(str(each))} does not list the new files: write it again[/]")


def _asked(predictor: Any, file: Path) -> list[Any]:
    """Real requests, each to be answered. Raises `InvalidSetting` for a file without."""
    from score.codecs.base import Body
    from score.inference.pipeline import infer

    try:
        lines = [line for line in file.read_bytes().splitlines() if line.strip()][:_MOST_REQUESTS]
    except OSError as error:
        raise InvalidSetting(f"--requests {file}: {error.strerror}") from None
    if not lines:
        raise InvalidSetting(f"--requests {file}: there is no request in it")
    return [lambda line=line: infer(predictor, Body(line)) for line in lines]


def _kept(checkpoint: Path, outcome: Any, settings: Settings) -> Path:
    from score.inference.tuning import tuned_file
    from score.inference.tuning.swap import Fits

    folder = tuned_file.folder_of(checkpoint)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if outcome.built.keep is not None:
        outcome.built.keep(folder)
    found = outcome.best.agreement
    best = {
        "speedup": round(outcome.best.speedup(outcome.base), 2),
        "error": found.error if found else None,
    }
    said = {
        "backend": outcome.best.name,
        "tolerance": settings.tolerance,
        "best": best,
        "placement": {"threads": outcome.placement.threads, "rows": outcome.placement.rows},
        "fits": Fits.of(outcome.samples).as_dict(),
        "tried": [each.as_dict() for each in outcome.tried],
    }
    return tuned_file.write(folder, checkpoint, outcome.device, said)


def _table(outcome: Any, tolerance: float) -> Table:
    rows = list(outcome.base.rows_per_second)
    table = Table("backend", *(f"rows/s, {count} a pass" for count in rows), "times torch", "answers", "")
    for each in sorted(outcome.tried, key=lambda each: -each.speedup(outcome.base) if each.rows_per_second else 1):
        if each.refused:
            table.add_row(escape(each.name), *("" for _ in rows), "", "", f"[dim]{escape(each.refused[:80])}[/]")
            continue
        why = "" if each.counts(tolerance) else f"[yellow]not within {tolerance:g}[/]"
        speeds = (f"{each.rows_per_second[count]:,.1f}" for count in rows)
        mark = "[green]best[/]" if each is outcome.best else why
        table.add_row(escape(each.name), *speeds, f"{each.speedup(outcome.base):.2f}", str(each.agreement), mark)
    return table


def _placement_tables(outcome: Any) -> list[Table]:
    """What the best gave with fewer threads, and with more rows a pass; what the server takes is marked."""
    placed, tables = outcome.placement, []
    if len(placed.by_threads) > 1:
        sizes = list(next(iter(placed.by_threads.values())))
        table = Table("threads", *(f"rows/s, {count} a pass" for count in sizes))
        taken = placed.threads or max(placed.by_threads)
        for count, found in placed.by_threads.items():
            table.add_row(_marked(count, taken), *(f"{found[each]:,.1f}" for each in sizes))
        tables.append(table)
    if len(placed.by_rows) > 1:
        table = Table("rows a pass", *(_marked(rows, placed.rows) for rows in placed.by_rows))
        table.add_row("rows/s", *(f"{speed:,.1f}" for speed in placed.by_rows.values()))
        tables.append(table)
    return tables


def _marked(count: int, taken: int) -> str:
    return f"[green]{count}[/]" if count == taken else str(count)
