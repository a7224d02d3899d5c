"""Write the version of score/__init__.py wherever else it stands: `python -m tools.version`. A test keeps all equal."""

import re
from pathlib import Path

from score import __version__

ROOT = Path(__file__).resolve().parent.parent
STANDS = re.compile(r"(?<=loadstone:)\d+\.\d+\.\d+|(?<=^ARG VERSION=)\d+\.\d+\.\d+", re.M)


def files() -> list[Path]:
    """The image's recipe, the deployments that name the image, and the pages that show how."""
    return [
        ROOT / "Dockerfile",
        ROOT / "README.md",
        *ROOT.glob("*.yml"),
        *ROOT.glob("deploy/*.yml"),
        ROOT / "deploy" / "kserve" / "runtime.yaml",
        *ROOT.glob("docs/*.md"),
    ]


def updated(text: str) -> str:
    """A file's text with this version."""
    return STANDS.sub(__version__, text)


if __name__ == "__main__":
    for file in files():
        file.write_text(updated(file.read_text()))
