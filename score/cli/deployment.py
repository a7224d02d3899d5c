"""deployment.yml as text: filled in for one model, comments and all. Needs nothing that takes time to import."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[2] / "deployment.yml"


def model_name(path: Path) -> str:
    """A name for a file or folder that Azure ML takes: 3 to 32 letters, digits and dashes, from a letter on."""
    stem = path.stem if path.is_file() else path.name
    name = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:32].rstrip("-")
    name = name if name[:1].isalpha() else f"model-{name}"[:32].rstrip("-")
    return name if len(name) >= 3 else f"model-{name}"


def filled_in(
    template: str,
    *,
    endpoint: str,
    deployment: str,
    image: str,
    model: str,
    path: str,
    variables: Mapping[str, str] | None = None,
) -> str:
    """A deployment's YAML for one model, comments and all. Raises `ValueError` where the template lacks a field."""
    fields = {
        r"^name: .*$": f"name: {deployment}",
        r"^endpoint_name: .*$": f"endpoint_name: {endpoint}",
        r"^  path: .*$": f"  path: {json.dumps(path)}",
        r"^  image: .*$": f"  image: {image}",
        r"(?<=^model:\n)  name: .*$": f"  name: {model}",
    }
    for pattern, line in fields.items():
        template, count = re.subn(pattern, line.replace("\\", r"\\"), template, count=1, flags=re.M)
        if not count:
            raise ValueError(f"the deployment has no line like {pattern}")
    added = "".join(f"  {name}: {json.dumps(value)}\n" for name, value in (variables or {}).items())
    return template.replace("environment_variables:\n", f"environment_variables:\n{added}", 1)


def image_of(template: str) -> str:
    """The image that a deployment names."""
    found = re.search(r"^  image: (\S+)$", template, re.M)
    assert found is not None, "deployment.yml names an image"
    return found[1]
