"""The site that `make docs` builds: mkdocs calls `on_files` and `on_page_markdown`.

The pages in docs/ are the site's, and so are those that stand elsewhere so that people find them there: README.md,
CONTRIBUTING.md, CHANGELOG.md, and what bench/ has measured. Their links are turned to where the pages are in the site.
A link to a file that is no page becomes its text, or leads into the repository where mkdocs.yml has a `repo_url`.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "benchmarks.md",
    "bench/scale.md": "scale.md",
    "bench/recognise.md": "recognise.md",
    "bench/serve.svg": "serve.svg",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def placed(source: str) -> str | None:
    """Where a file of the repository is in the site, both as paths; None if it is not."""
    return ELSEWHERE.get(source) or (source[5:] if source.startswith("docs/") else None)


def source_of(page: str) -> str:
    """The file of the repository that a page of the site is made from."""
    return next((source for source, place in ELSEWHERE.items() if place == page), f"docs/{page}")


def outside_code(text: str) -> Iterator[tuple[str, str]]:
    """A page's lines, as ("text", line) or, in fenced blocks, ("code", line); the newlines are kept."""
    fence = ""
    for line in text.splitlines(keepends=True):
        mark = re.match(r" *(```+|~~~+)", line)
        yield ("code" if fence or mark else "text"), line
        if mark:
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]


def links(text: str) -> list[str]:
    """The targets of a page's links and images."""
    prose = "".join(re.sub(r"`[^`]*`", "", line) for kind, line in outside_code(text) if kind == "text")
    return [match[3] for match in _LINK.finditer(prose)]


def relinked(text: str, source: str, repository: str | None = None) -> str:
    """A page with its links as the site has them; `source` is its file in the repository."""

    def link(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path or "://" in path:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if (place := placed(file)) is not None:
            here = posixpath.dirname(placed(source) or "")
            return f"{mark}[{label}]({posixpath.relpath(place, here or '.')}{hash_}{anchor})"
        if not (ROOT / file).exists():
            return match[0]  # for mkdocs to complain about
        if repository:
            return f"{mark}[{label}]({repository.rstrip('/')}/blob/main/{file}{hash_}{anchor})"
        return label if "`" in label or " " in label else f"`{label}`"

    return "".join(_LINK.sub(link, line) if kind == "text" else line for kind, line in outside_code(text))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that stand elsewhere."""
    from mkdocs.structure.files import File  # it is in the site's own environment

    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page to where they lead in the site."""
    return relinked(markdown, source_of(page.file.src_uri), config.repo_url)
