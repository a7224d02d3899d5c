"""What `score inspect --html` writes: what the screen shows as one HTML file that needs nothing else."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from score.cli.render_text import Screen, sections, top
from score.formats.search import size
from score.weights.compare import Comparison

MOST_ROWS = 1_000  # of one kind of difference

# Names are the file's own: everything is escaped.
_ENVIRONMENT = Environment(loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True)
_ENVIRONMENT.filters |= {"percent": "{:.0%}".format, "thousands": "{:,}".format, "size": size}


def page(title: str, screen: Screen) -> str:
    """One checkpoint."""
    return _ENVIRONMENT.get_template("checkpoint.html").render(title=title, screen=screen, shares=top(screen.shares))


def comparison_page(found: Comparison) -> str:
    """Two checkpoints: a table for each kind of difference, and for values a bar for how much of a tensor differs."""
    title = f"{found.first} and {found.second}"
    template = _ENVIRONMENT.get_template("comparison.html")
    return template.render(title=title, found=found, sections=sections(found), most=MOST_ROWS)
