"""deployment.yml as text: filled in for one model, comments and all."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

# Beside this file where the package was installed, at the root of the repository where it was not.
_PLACES = (Path(__file__).with_name("deployment.yml"), Path(__file__).resolve().parents[2] / "deployment.yml")


def template() -> str:
    """The deployment that comes with this project."""
    return next(place for place in _PLACES if place.is_file()).read_text()


def model_name(path: Path) -> str:
    """A name for a file or folder that Azure ML takes: 3 to 32 letters, digits and dashes, from a letter on."""
    stem = path.stem if path.is_file() else path.name
    name = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:32].rstrip("-")
    name = name if name[:1].isalpha() else f"model-{name}"[:32].rstrip("-")
    return name if len(name) >= 3 else f"model-{name}"


def filled_in(
    text: str,
    *,
    endpoint: str,
    deployment: str,
    model: str,
    path: str,
    image: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> str:
    """A deployment's YAML for one model, comments and all; `image` is left as it is where none is given.

    Raises `ValueError` where the text is not a deployment's.
    """
    yaml = YAML()  # keeps comments, order and quotes
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text)
    try:
        document["name"], document["endpoint_name"] = deployment, endpoint
        document["model"].update(name=model, path=path)
        if image is not None:
            document["environment"]["image"] = image
        for at, (name, value) in enumerate((variables or {}).items()):
            document["environment_variables"].insert(at, name, DoubleQuotedScalarString(value))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the deployment has no {error}") from None
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue()
