"""What `score inspect` shows to people, on a terminal; `show_html` writes the same as a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape as marked
from rich.table import Table

from score.errors import one_line
from score.formats.search import size
from score.weights.anatomy import Line
from score.weights.compare import Comparison

BAR = 30  # characters
MOST_SHARES = 8
MOST_ROWS = 12
LONGEST = 300  # characters of a value


def _text(value: str) -> str:
    """Text of the file's own as a terminal may have it: neither markup nor control characters."""
    return marked(one_line(value))


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
        "architecture": _architecture(found),
        "safe": "yes: plain data" if not unsafe else f"weights are read without running it: {', '.join(unsafe)}",
    }
    for candidate in found["candidates"] if len(found["candidates"]) > 1 else ():
        shown = f"{candidate['tensors']:,} tensors, {size(candidate['bytes'])}, {candidate['kind']}"
        lines[f"candidate {candidate['path'] or '(root)'}"] = shown
    for name, value in found["metadata"].items():
        lines[f"  {name}"] = shortened(orjson.dumps(value, default=str).decode())
    return lines


def _architecture(found: dict[str, Any]) -> str:
    """`ResNet(depths=[2, 2, 2, 2], num_classes=7), that is torchvision's resnet18`."""
    name, kwargs, known = found["architecture"], found["architecture_kwargs"], found["known_as"]
    said = f"{name}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})" if name and kwargs else name
    library, _, called = (known or "").partition(":")
    also = f", that is {library}'s {called}" if called and known != name else ""
    return f"{said or 'not recognised'}{also if said else ''}"


def show_tensors(found: dict[str, Any], out: Console) -> None:
    """Every tensor, a line each: dtype, shape, size and name."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("tensor", "left"), ("dtype", "left"), ("shape", "left"), ("bytes", "right")):
        grid.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for each in found["tensor_list"]:
        shape = "[" + ", ".join(map(str, each["shape"])) + "]"
        grid.add_row(_text(each["name"]), each["dtype"], shape.replace("[", "\\["), size(each["bytes"]))
    out.print()
    out.print(grid)


def show(screen: Screen, out: Console) -> None:
    """On a terminal."""
    wide = max(map(len, screen.facts))
    for name, value in screen.facts.items():
        out.print(f"[bold]{name:{wide}}[/]  {_text(value)}", highlight=False)
    if screen.unrecognised:
        out.print("\n[bold]to serve it[/]")
        for said in screen.unrecognised:
            out.print(f"  {_text(said)}")
    if screen.tree:
        out.print()
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for name, justify in (("module", "left"), ("parameters", "right"), ("bytes", "right"), ("dtype", "left")):
            grid.add_column(name, justify=justify)  # type: ignore[arg-type]
        for line in screen.tree:
            grid.add_row(
                f"{'  ' * line.depth}{_text(line.name)}", f"{line.parameters:,}", size(line.nbytes), line.dtypes
            )
        out.print(grid)
    if screen.shares:
        out.print("\n[bold]where the bytes are[/]")
        bars = Table(box=None, pad_edge=False, show_header=False)
        for name, share, nbytes in top(screen.shares):
            bars.add_row(_text(name), f"[cyan]{'█' * max(1, round(share * BAR))}[/]", f"{share:.0%}", size(nbytes))
        out.print(bars)
    if screen.odd:
        out.print("\n[bold yellow]odd[/]")
        for remark in screen.odd:
            out.print(f"  {_text(remark)}")


def show_comparison(found: Comparison, out: Console) -> None:
    if found.equal:
        out.print(f"[green]the same[/]: {found.same:,} tensors, each equal in name, shape, dtype and value")
        return
    out.print(f"{found.same:,} tensors are equal")
    for section in sections(found):
        _section(out, section)


@dataclass(frozen=True)
class Section:
    """One kind of difference, and a row for each tensor that differs so; `shares` are the parts of each that do."""

    title: str
    rows: Sequence[tuple[str, ...]]
    shares: Sequence[float] = ()


def sections(found: Comparison) -> list[Section]:
    """What differs between two checkpoints, by kind; kinds without a difference are left out."""
    kinds = [
        Section("only in the first", [(name,) for name in found.only_first]),
        Section("only in the second", [(name,) for name in found.only_second]),
        Section("another shape", [(name, str(list(a)), str(list(b))) for name, a, b in found.shapes]),
        Section("another dtype", list(found.dtypes)),
        Section(
            "other values, largest difference first",
            [(each.name, f"up to {each.largest:.3g}", f"{each.share:.1%} of it") for each in found.values],
            [each.share for each in found.values],
        ),
    ]
    return [kind for kind in kinds if kind.rows]


def top(shares: Sequence[tuple[str, int]]) -> list[tuple[str, float, int]]:
    """The largest, and the rest as one."""
    total = sum(nbytes for _, nbytes in shares) or 1
    found = [(name, nbytes / total, nbytes) for name, nbytes in shares[:MOST_SHARES]]
    rest = sum(nbytes for _, nbytes in shares[MOST_SHARES:])
    return [*found, *([(f"{len(shares) - MOST_SHARES} others", rest / total, rest)] if rest else [])]


def _section(out: Console, section: Section) -> None:
    count = len(section.rows)
    out.print(f"\n[bold]{section.title}[/] ({count:,})")
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in section.rows[:MOST_ROWS]:
        table.add_row(*(f"  {_text(cell)}" for cell in row))
    out.print(table)
    if count > MOST_ROWS:
        out.print(f"  ... and {count - MOST_ROWS:,} more")


def shortened(text: str) -> str:
    """A value that would fill the screen, cut."""
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
