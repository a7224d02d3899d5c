"""Write the settings table of README.md from `score.settings`: `python tools/readme.py`. A test keeps the two equal."""

import re
from pathlib import Path

from score.settings import Settings, variable

README = Path(__file__).resolve().parent.parent / "README.md"


def settings_table() -> str:
    """A Markdown row for each setting."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, {}, frozenset()) else f"`{str(field.default).lower()}`"
        rows.append(f"| `{variable(name)}` | {default} | {field.description} |")
    return "\n".join(rows)


def updated(text: str) -> str:
    """The README with its table as the settings are now."""
    head, rest = text.split("<!-- settings -->", 1)
    _, tail = rest.split("<!-- /settings -->", 1)
    # The table's head stands just above the mark, which Markdown would end the table at: the rows go before it.
    head = re.sub(r"(\|---\|---\|---\|\n)(\| `(SCORE|SCORING|AZUREML)_.*\n)*\Z", r"\1", head)
    return f"{head}{settings_table()}\n<!-- settings -->\n<!-- /settings -->{tail}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
