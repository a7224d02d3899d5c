"""Write docs/errors.md from `score.errors`: `python -m tools.errors_page`. A test keeps the two equal."""

import re
from pathlib import Path

from score import errors
from score.errors import LoadError, ScoreError, every_error

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"

HEAD = """# Errors

Every error has a stable code, a message that names what was found, and a hint that says what to do next. It reads the
same in the log, on the command line and over HTTP. Written from `score/errors.py` by `python -m tools.errors_page`.

"""


def causes() -> dict[str, str]:
    """What the tree in the module's docstring says of each class."""
    assert errors.__doc__ is not None
    found = re.findall(r"[├└]── (\w+) +(?:\d{3}(?:, )?)?(.*)", errors.__doc__)
    return {name: text.strip() for name, text in found}


def section(kind: type[ScoreError], cause: str) -> str:
    where = "the model can't be loaded: exit code 3" if issubclass(kind, LoadError) else f"HTTP {kind.status}"
    return (
        f"### {kind.code}\n\n{cause[:1].upper()}{cause[1:]} ({where}).\n\n"
        f"```text\nERROR {kind.code}: {kind.example}\n```\n\n{kind.hint}\n"
    )


def rendered() -> str:
    """The whole page."""
    known = causes()
    parts: dict[str, list[str]] = {"When loading a model": [], "When answering a request": []}
    for kind in every_error():
        title = "When loading a model" if issubclass(kind, LoadError) else "When answering a request"
        parts[title].append(section(kind, known[kind.__name__]))
    return HEAD + "\n".join(f"## {title}\n\n" + "\n".join(found) for title, found in parts.items())


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(rendered())
