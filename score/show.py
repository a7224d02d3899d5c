"""What `score inspect` shows to people: one screen, or the same as a page."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from score.anatomy import Line
from score.comparison import Comparison
from score.model_dir import size

BAR = 30  # characters
MOST_SHARES = 8
MOST_ROWS = 12
LONGEST = 300  # characters of a value


@dataclass(frozen=True)
class Screen:
    """All of it: facts by name, the tree, the bytes by module, what is odd, and why a class is not known."""

    facts: dict[str, str]
    tree: Sequence[Line]
    shares: Sequence[tuple[str, int]]
    odd: Sequence[str]
    unrecognised: Sequence[str]


def facts(found: dict[str, Any]) -> dict[str, str]:
    """The object of `score inspect --json`, a line for each thing that a person asks."""
    weights = found["weights_path"]
    dtypes = ", ".join(f"{name} x {count}" for name, count in found["dtypes"].items())
    unsafe = found["unsafe_globals"]
    lines = {
        "file": f"{found['path']} ({size(found['bytes'])})",
        "format": found["format"],
        "sha256": found["sha256"],
        "weights at": "ambiguous: set SCORE_WEIGHTS" if weights is None else weights or "the root",
        "tensors": f"{found['tensors']:,} ({dtypes})",
        "parameters": f"{found['parameters']:,}",
        "prefix": found["prefix"] or "none",
        "architecture": found["architecture"] or "not recognised",
        "safe": "yes: plain data" if not unsafe else f"weights are read without running it: {', '.join(unsafe)}",
    }
    for candidate in found["candidates"] if len(found["candidates"]) > 1 else ():
        shown = f"{candidate['tensors']:,} tensors, {size(candidate['bytes'])}, {candidate['kind']}"
        lines[f"candidate {candidate['path'] or '(root)'}"] = shown
    for name, value in found["metadata"].items():
        lines[f"  {name}"] = shortened(orjson.dumps(value, default=str).decode())
    return lines


def show(screen: Screen, out: Console) -> None:
    """On a terminal."""
    wide = max(map(len, screen.facts))
    for name, value in screen.facts.items():
        out.print(f"[bold]{name:{wide}}[/]  {escape(value)}", highlight=False)
    if screen.unrecognised:
        out.print("\n[bold]to serve it[/]")
        for said in screen.unrecognised:
            out.print(f"  {escape(said)}")
    if screen.tree:
        out.print()
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for name, justify in (("module", "left"), ("parameters", "right"), ("bytes", "right"), ("dtype", "left")):
            grid.add_column(name, justify=justify)  # type: ignore[arg-type]
        for line in screen.tree:
            grid.add_row(
                f"{'  ' * line.depth}{escape(line.name)}", f"{line.parameters:,}", size(line.nbytes), line.dtypes
            )
        out.print(grid)
    if screen.shares:
        out.print("\n[bold]where the bytes are[/]")
        bars = Table(box=None, pad_edge=False, show_header=False)
        for name, share, nbytes in _top(screen.shares):
            bars.add_row(escape(name), f"[cyan]{'█' * max(1, round(share * BAR))}[/]", f"{share:.0%}", size(nbytes))
        out.print(bars)
    if screen.odd:
        out.print("\n[bold yellow]odd[/]")
        for remark in screen.odd:
            out.print(f"  {escape(remark)}")


def show_comparison(found: Comparison, out: Console) -> None:
    if found.equal:
        out.print(f"[green]the same[/]: {found.same:,} tensors, each equal in name, shape, dtype and value")
        return
    out.print(f"{found.same:,} tensors are equal")
    for title, names in (("only in the first", found.only_first), ("only in the second", found.only_second)):
        _section(out, title, len(names), [(name,) for name in names])
    _section(out, "another shape", len(found.shapes), [(n, str(list(a)), str(list(b))) for n, a, b in found.shapes])
    _section(out, "another dtype", len(found.dtypes), list(found.dtypes))
    changed = [(each.name, f"up to {each.largest:.3g}", f"{each.share:.1%} of it") for each in found.values]
    _section(out, "other values, largest difference first", len(changed), changed)


def page(title: str, screen: Screen) -> str:
    """The same as one HTML file that needs nothing else."""
    rows = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in screen.facts.items())
    tree = "".join(
        f'<tr><td style="padding-left:{line.depth * 1.5 + 0.5}rem">{html.escape(line.name)}</td>'
        f"<td class=n>{line.parameters:,}</td><td class=n>{size(line.nbytes)}</td>"
        f"<td>{html.escape(line.dtypes)}</td></tr>"
        for line in screen.tree
    )
    bars = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=bar><svg viewBox='0 0 100 8' preserveAspectRatio='none' role=img "
        f"aria-label='{share:.0%}'><rect width='{max(share * 100, 0.5):.1f}' height='8'/></svg></td>"
        f"<td class=n>{share:.0%}</td><td class=n>{size(nbytes)}</td></tr>"
        for name, share, nbytes in _top(screen.shares)
    )
    parts = [f"<h1>{html.escape(title)}</h1><table>{rows}</table>"]
    parts += [_list("To serve it", screen.unrecognised), _list("Odd", screen.odd)]
    if bars:
        parts.append(f"<h2>Where the bytes are</h2><table>{bars}</table>")
    if tree:
        head = "<tr><th>module</th><th>parameters</th><th>bytes</th><th>dtype</th></tr>"
        parts.append(f"<h2>Modules</h2><table>{head}{tree}</table>")
    return PAGE.replace("{title}", html.escape(title)).replace("{body}", "".join(parts))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d0d7de; --bar: #0969da }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; --bar: #58a6ff } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .2rem .5rem; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere } .n { text-align: right; white-space: nowrap }
.bar { width: 50% } svg { width: 100%; height: .8rem } rect { fill: var(--bar) }
</style></head><body>{body}</body></html>
"""


def _list(title: str, items: Sequence[str]) -> str:
    inner = "".join(f"<li>{html.escape(item)}</li>" for item in items)
    return f"<h2>{title}</h2><ul>{inner}</ul>" if items else ""


def _top(shares: Sequence[tuple[str, int]]) -> list[tuple[str, float, int]]:
    """The largest, and the rest as one."""
    total = sum(nbytes for _, nbytes in shares) or 1
    found = [(name, nbytes / total, nbytes) for name, nbytes in shares[:MOST_SHARES]]
    rest = sum(nbytes for _, nbytes in shares[MOST_SHARES:])
    return [*found, *([(f"{len(shares) - MOST_SHARES} others", rest / total, rest)] if rest else [])]


def _section(out: Console, title: str, count: int, rows: Sequence[tuple[str, ...]]) -> None:
    if not count:
        return
    out.print(f"\n[bold]{title}[/] ({count:,})")
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows[:MOST_ROWS]:
        table.add_row(*(f"  {escape(cell)}" for cell in row))
    out.print(table)
    if count > MOST_ROWS:
        out.print(f"  ... and {count - MOST_ROWS:,} more")


def shortened(text: str) -> str:
    """A value that would fill the screen, cut."""
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
