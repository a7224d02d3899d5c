"""The page that people see at /score: one file that needs nothing but itself and this server.

Its shell is a template; the card, the form and the charts are drawn by its script from what the server answers in JSON.
"""

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


def _rendered() -> bytes:
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True)
    style = Markup((_TEMPLATES / "page.css").read_text())  # noqa: S704  # ours
    script = Markup("".join((_TEMPLATES / name).read_text() for name in _SCRIPTS))  # noqa: S704  # ours
    return environment.get_template("page.html").render(style=style, script=script).encode()


PAGE = _rendered()
