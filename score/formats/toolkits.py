"""Toolkits that are told by what lies beside weights, or in their checkpoint: who wrote them, and the way out.

A state_dict of theirs says nothing of its class; their configuration does, in a language that would run code. It is
read here line by line, for the names in it. To add one, add a function to `_KINDS`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_BYTES = 1_000_000  # of a configuration
_NEW = re.compile(r"^([\w-]+): *!new:(speechbrain[\w.]*)\.(\w+)\s*$", re.M)
_GIVEN = re.compile(r"^ {2,}(\w+): *(.+?)\s*(?:#.*)?$")


@dataclass(frozen=True)
class Toolkit:
    """Who wrote a checkpoint, what of it that says, and what to do."""

    name: str
    says: str
    way_out: str


def of(path: Path, metadata: Mapping[str, Any]) -> Toolkit | None:
    """The toolkit that a checkpoint, or the folder that it is in, is of; None where nothing says so."""
    folder = path if path.is_dir() else path.parent
    return next((found for kind in _KINDS if (found := kind(folder, path, metadata)) is not None), None)


def _text(path: Path) -> str:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            return ""
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _speechbrain(folder: Path, path: Path, _metadata: Mapping[str, Any]) -> Toolkit | None:
    """`hyperparams.yaml` of HyperPyYAML: `name: !new:package.Class`, and its arguments in the lines below."""
    text = _text(folder / "hyperparams.yaml")
    found = {match[1]: match for match in _NEW.finditer(text)}
    if not found and "!new:speechbrain" not in text:
        return None
    files = {name: f"{name}.ckpt" for name in found if (folder / f"{name}.ckpt").is_file()}
    chosen = next((name for name in files if path.name == files[name]), next(iter(files), None))
    says = ", ".join(f"{files[name]} is {found[name][2]}.{found[name][3]}" for name in files)
    if chosen is None:
        return Toolkit("SpeechBrain", "hyperparams.yaml names the classes", "Serve it by SpeechBrain's own interfaces.")
    match = found[chosen]
    said = {"checkpoint": files[chosen], "architecture": f"{match[2]}:{match[3]}"}
    kwargs = _arguments(text[match.end() :])
    options = " ".join(f"--{name} {value}" for name, value in said.items())
    options += f" --kwargs '{json.dumps(kwargs)}'" if kwargs else ""
    return Toolkit("SpeechBrain", says, f"pip install speechbrain, and name the class: {options}")


def _arguments(text: str) -> dict[str, Any] | None:
    """The arguments below a line, where all are plain numbers, words or lists of numbers; None for others."""
    found: dict[str, Any] = {}
    for line in text.lstrip("\n").splitlines():
        match = _GIVEN.match(line)
        if match is None:
            break
        try:
            found[match[1]] = json.loads(match[2].replace("True", "true").replace("False", "false"))
        except ValueError:
            if not re.fullmatch(r"\w+", match[2]):
                return None
            found[match[1]] = match[2]
    return found


def _espnet(folder: Path, _path: Path, _metadata: Mapping[str, Any]) -> Toolkit | None:
    meta, config = _text(folder / "meta.yaml"), _text(folder / "config.yaml")
    if not re.search(r"^espnet: ", meta, re.M) and not (
        "token_list:" in config and re.search(r"^frontend: ", config, re.M)
    ):
        return None
    parts = ", ".join(re.findall(r"^((?:encoder|decoder|frontend|tts|vocoder): \w+)\s*$", config, re.M))
    return Toolkit(
        "ESPnet",
        parts or "its task's configuration names the classes",
        "Export it by espnet_onnx, and serve the graphs.",
    )


def _nemo(folder: Path, _path: Path, _metadata: Mapping[str, Any]) -> Toolkit | None:
    match = re.search(r"^target: (nemo\.[\w.]+)\s*$", _text(folder / "model_config.yaml"), re.M)
    way_out = 'Export it where NeMo is installed: model.export("model.onnx"), and serve the graph.'
    return Toolkit("NeMo", f"it is {match[1]}", way_out) if match else None


_WHOLE = (
    "Save the network whole where its library is installed, torch.save(model, 'model.pt'), and serve that without it"
)


def _detectron2(folder: Path, _path: Path, metadata: Mapping[str, Any]) -> Toolkit | None:
    author = str(metadata.get("__author__", ""))
    match = re.search(r"^  META_ARCHITECTURE: (\w+)\s*$", _text(folder / "config.yaml"), re.M)
    if match is None and "detectron" not in author.lower():
        return None
    says = f"it is {match[1]}" if match else f"it says {author!r:.60}"
    return Toolkit(
        "Detectron2", says,
        f"{_WHOLE}: R-CNN and RetinaNet are known here. Or export it to TorchScript: tools/deploy/export_model.py "
        "--export-method tracing.",
    )  # fmt: skip


def _openmmlab(_folder: Path, _path: Path, metadata: Mapping[str, Any]) -> Toolkit | None:
    meta = metadata.get("meta")
    versions = (
        {} if not isinstance(meta, dict) else {key: meta[key] for key in meta if re.fullmatch(r"mm\w+_version", key)}
    )
    if not versions:
        return None
    says = ", ".join(f"{key.removesuffix('_version')} {str(value)[:20]}" for key, value in versions.items())
    way_out = f"{_WHOLE}: most networks are known here. Or export it by MMDeploy to ONNX or TorchScript."
    return Toolkit("OpenMMLab", f"saved by {says}", way_out)


def _fairseq(_folder: Path, _path: Path, metadata: Mapping[str, Any]) -> Toolkit | None:
    config = metadata.get("cfg") or metadata.get("args")
    model = config.get("model") if isinstance(config, dict) else None
    name = model.get("_name") if isinstance(model, dict) else config.get("arch") if isinstance(config, dict) else None
    if not isinstance(name, str) or "criterion" not in (config or {}):
        return None
    return Toolkit("fairseq", f"its model is {name!r:.60}", "Take it as converted to transformers, where there is one.")


_KINDS: tuple[Callable[[Path, Path, Mapping[str, Any]], Toolkit | None], ...] = (
    _speechbrain, _espnet, _nemo, _detectron2, _openmmlab, _fairseq,
)  # fmt: skip
