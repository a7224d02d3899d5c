"""What an `MLmodel` file says of a model's inputs, and the example that was recorded with it.

Sources: mlflow.org/docs/latest/model/signatures and mlflow/models/utils.py, `_Example`.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score.errors import MalformedFile
from score.formats._io.folder import contained

MOST_EXAMPLE = 1 << 18  # bytes; the model card shows it
_NUMBERS = frozenset(("boolean", "integer", "long", "float", "double"))
_BODIES = ("inputs", "instances", "dataframe_split", "dataframe_records", "input_data")


def takes(document: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The signature's inputs as SCORE_INPUTS has them; None where there are none, or they are not of numbers. Columns
    of numbers are one array, as mlflow gives them to a PyTorch model."""
    said = _inputs(document)
    if not said:
        return None
    if all(each.get("type") in _NUMBERS for each in said):
        return f"float32[N, {len(said)}]"
    specs = [(str(each.get("name", "")), _tensor(each)) for each in said]
    if any(spec is None for _, spec in specs):
        return None
    if len(specs) == 1 and not specs[0][0]:
        return specs[0][1]
    return {name: spec for name, spec in specs if spec is not None} if all(name for name, _ in specs) else None


def columns(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a table's columns, in order; none where it is no table, or they have no names."""
    said = _inputs(document)
    names = tuple(str(each.get("name", "")) for each in said)
    return names if all(names) and all(each.get("type") in _NUMBERS for each in said) else ()


def _inputs(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    signature = document.get("signature")
    said = signature.get("inputs") if isinstance(signature, dict) else None
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        said = json.loads(said) if isinstance(said, str) else said
    return said if isinstance(said, list) and all(isinstance(each, dict) for each in said) else []


def _tensor(said: Mapping[str, Any]) -> str | None:
    spec = said.get("tensor-spec")
    if not isinstance(spec, dict) or not isinstance(shape := spec.get("shape"), list):
        return None
    dtype = str(spec.get("dtype", ""))
    if not dtype.isalnum() or dtype in ("str", "object", "bytes"):
        return None
    return f"{dtype}[{', '.join(str(size) if isinstance(size, int) and size >= 0 else '?' for size in shape)}]"


def example(folder: Path, document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recorded example as the body of a request; None where there is none, or it can't be read."""
    info = document.get("saved_input_example_info")
    if not isinstance(info, dict):
        return None
    if isinstance(found := _read(folder, info.get("serving_input_path")), dict):
        return found
    found = _read(folder, info.get("artifact_path"))
    if found is None or (isinstance(found, dict) and any(key in found for key in _BODIES)):
        return found
    if isinstance(found, list) and len(found) == 2 and isinstance(found[1], dict) and info.get("example_type"):
        return {"inputs": found[0], "params": found[1]}
    if info.get("type") == "dataframe" or (isinstance(found, dict) and {"columns", "data"} <= found.keys()):
        return {"dataframe_split": found}
    return {"inputs": found}


def _read(folder: Path, name: Any) -> Any:
    """A small JSON file of the folder."""
    if not isinstance(name, str):
        return None
    try:
        path = contained(folder, name)
        if not path.is_file() or path.stat().st_size > MOST_EXAMPLE:
            return None
        return json.loads(path.read_bytes())
    except (MalformedFile, ValueError, RecursionError):
        return None
