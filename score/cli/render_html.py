"""What `score inspect --html` writes: the screen as one HTML file that needs nothing else."""

import html
from collections.abc import Sequence

from score.cli.render_text import Screen, sections, top
from score.weights.compare import Comparison
from score.weights.locate import size

MOST_ROWS = 1_000  # of one kind of difference

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d0d7de; --bar: #0969da }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; --bar: #58a6ff } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .2rem .5rem; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere } .n { text-align: right; white-space: nowrap }
.bar { width: 40% } svg { width: 100%; height: .8rem } rect { fill: var(--bar) }
</style></head><body>{body}</body></html>
"""


def page(title: str, screen: Screen) -> str:
    """One checkpoint."""
    parts = ["<table>", *(f"<tr><th>{_said(name)}</th>{_cell(value)}</tr>" for name, value in screen.facts.items())]
    parts += ["</table>", _list("To serve it", screen.unrecognised), _list("Odd", screen.odd)]
    if screen.shares:
        rows = (
            f"<tr>{_cell(name)}{_bar(share)}<td class=n>{share:.0%}</td><td class=n>{size(nbytes)}</td></tr>"
            for name, share, nbytes in top(screen.shares)
        )
        parts += ["<h2>Where the bytes are</h2><table>", *rows, "</table>"]
    if screen.tree:
        rows = (
            f'<tr><td style="padding-left:{line.depth * 1.5 + 0.5}rem">{_said(line.name)}</td>'
            f"<td class=n>{line.parameters:,}</td><td class=n>{size(line.nbytes)}</td>{_cell(line.dtypes)}</tr>"
            for line in screen.tree
        )
        head = "<tr><th>module</th><th class=n>parameters</th><th class=n>bytes</th><th>dtype</th></tr>"
        parts += [f"<h2>Modules</h2><table>{head}", *rows, "</table>"]
    return _whole(title, parts)


def comparison_page(found: Comparison) -> str:
    """Two checkpoints: a table for each kind of difference, and for values a bar for how much of a tensor differs."""
    parts = [f"<p>{found.same:,} tensors are equal{', and nothing differs' if found.equal else ''}.</p>"]
    for section in sections(found):
        parts.append(f"<h2>{section.title[:1].upper()}{section.title[1:]} ({len(section.rows):,})</h2><table>")
        bars = [_bar(share) for share in section.shares] or [""] * len(section.rows)
        for row, bar in list(zip(section.rows, bars, strict=True))[:MOST_ROWS]:
            parts.append(f"<tr>{''.join(map(_cell, row))}{bar}</tr>")
        parts.append("</table>")
        if len(section.rows) > MOST_ROWS:
            parts.append(f"<p>... and {len(section.rows) - MOST_ROWS:,} more</p>")
    return _whole(f"{found.first} and {found.second}", parts)


def _whole(title: str, parts: Sequence[str]) -> str:
    body = f"<h1>{_said(title)}</h1>{''.join(parts)}"
    return PAGE.replace("{title}", _said(title)).replace("{body}", body)


def _said(text: str) -> str:
    return html.escape(text)


def _cell(text: str) -> str:
    return f"<td>{_said(text)}</td>"


def _bar(share: float) -> str:
    return (
        f"<td class=bar><svg viewBox='0 0 100 8' preserveAspectRatio='none' role=img aria-label='{share:.0%}'>"
        f"<rect width='{max(share * 100, 0.5):.1f}' height='8'/></svg></td>"
    )


def _list(title: str, items: Sequence[str]) -> str:
    inner = "".join(f"<li>{_said(item)}</li>" for item in items)
    return f"<h2>{title}</h2><ul>{inner}</ul>" if items else ""
