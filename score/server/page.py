"""The page that people see at /score: one file that needs nothing but itself and this server.

Its shell is a template; the card, the form and the charts are drawn by its script from what the server answers in JSON.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

_TEMPLATES = Path(__file__).with_name("templates")

_SCRIPTS = ("page.js", "input.js", "answer.js", "live.js")

# Nothing that the page shows can make it fetch or run more.
HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "vary": "Accept",
    "x-content-type-options": "nosniff",
}


_environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True)


def listed(models: Sequence[Mapping[str, str]]) -> bytes:
    """The page of several models: each with its state, and a link to its own."""
    return _environment.get_template("models.html").render(style=_style(), models=models).encode()


def _style() -> Markup:
    return Markup((_TEMPLATES / "page.css").read_text())  # noqa: S704  # ours


def _rendered(above: str) -> bytes:
    script = Markup("".join((_TEMPLATES / name).read_text() for name in _SCRIPTS))  # noqa: S704  # ours
    return _environment.get_template("page.html").render(style=_style(), script=script, above=above).encode()


PAGE, PAGE_OF_ONE = _rendered(""), _rendered("../")  # at /score, and at /score/{model}
