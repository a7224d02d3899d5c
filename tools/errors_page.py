"""Write docs/errors.md from `score.errors`: `python -m tools.errors_page`. A test keeps the two equal."""

from pathlib import Path

from score.errors import LoadError, RequestError, ScoreError, every_error

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"

HEAD = """# Errors

Every error has a stable code, a message that names what was found, and a hint that says what to do next. It reads the
same in the log, on the command line and over HTTP. `score explain CODE` prints a section of this page, which
`python -m tools.errors_page` writes from `score/errors.py`.

"""
PARTS = {"When loading a model": LoadError, "When answering a request": RequestError}


def section(kind: type[ScoreError]) -> str:
    """An error's code, cause, example and remedy. `<name>` in a hint would be a tag to Markdown, and not be shown."""
    hint = kind.hint.replace("<", "&lt;")
    why, worked = kind.explained()
    return (
        f"### {kind.code}\n\n{kind.meaning()}\n\n```text\nERROR {kind.code}: {kind.example}\n```\n\n{hint}\n\n"
        f"{why.replace('<', '&lt;')}\n\n```console\n{worked}\n```\n"
    )


def rendered() -> str:
    """The whole page."""
    return HEAD + "\n".join(
        f"## {title}\n\n" + "\n".join(section(kind) for kind in every_error() if issubclass(kind, base))
        for title, base in PARTS.items()
    )


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(rendered())
