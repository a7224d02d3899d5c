"""`foreign`: files that are no PyTorch checkpoint, known by name so that the refusal can say what they are.

To add one, add a row: what people call it, how its content is told, and the way out. This format is asked last, so a
row need not know which files are ours.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from score.errors import ForeignFormat, LoadError, TruncatedFile
from score.formats.base import Checkpoint
from score.formats.probe import Probe

NAME = "foreign"
PRIORITY = -100
SERVABLE = False


@dataclass(frozen=True)
class Foreign:
    """One kind of foreign file: its name, the test of its content, the way out, and the error it is refused with."""

    name: str
    test: Callable[[Probe], bool]
    way_out: str
    error: type[LoadError] = ForeignFormat


def _starts(*magics: bytes, at: int = 0) -> Callable[[Probe], bool]:
    return lambda probe: probe.head[at:].startswith(magics)


def _folder_has(*names: str) -> Callable[[Probe], bool]:
    return lambda probe: probe.is_dir and all((probe.path / name).exists() for name in names)


_AGAIN = "Download or copy the file again; check what the source really sends."
_SYMLINK = re.compile(rb"(\.{1,2}/)+[\w./\-]+\n?\Z")

KINDS = (
    Foreign("an empty file", lambda probe: not probe.is_dir and probe.size == 0, _AGAIN, TruncatedFile),
    Foreign(
        "a git-lfs pointer, not the file it points to",
        _starts(b"version https://git-lfs"),
        "Run `git lfs pull` where the file comes from, and register the real file.",
    ),
    Foreign(
        "the text of a symbolic link, not the file it points to",
        lambda probe: probe.size < 512 and bool(_SYMLINK.match(probe.head)),
        "Copy the file that the link points to (cp -L), and register that.",
    ),
    Foreign("an HTML page", lambda probe: _looks_like_html(probe.head), _AGAIN),
    Foreign("an XML document, such as a storage service's error", _starts(b"<?xml"), _AGAIN),
    Foreign(
        "a file of zeros",
        lambda probe: len(probe.head) >= 64 and not any(probe.head),
        "The space was reserved and never written: copy the file again.",
        TruncatedFile,
    ),
    Foreign(
        "a part of a zip archive that was split (.z01, .z02 ...)",
        _starts(b"PK\x07\x08", b"PK00PK"),
        "Join it: zip -s 0 model.zip --out whole.zip; and register whole.zip.",
    ),
    Foreign(
        "a zip archive that is cut short or damaged",
        lambda probe: probe.head.startswith(b"PK\x03\x04") and not probe.names,
        TruncatedFile.hint,
        TruncatedFile,
    ),
    Foreign("a GGML model (llama.cpp)", _starts(b"lmgg", b"tjgg", b"fmgg"), "Take the original safetensors."),
    Foreign(
        "an HDF5 file (Keras or TensorFlow weights)",
        _starts(b"\x89HDF\r\n\x1a\n"),
        "Load it in Keras and export it to ONNX, or port the weights to a PyTorch model.",
    ),
    Foreign(
        "a Keras 3 archive",
        lambda probe: probe.has("config.json", "metadata.json") and probe.has_under("model.weights.h5"),
        "Load it in Keras and export it to ONNX.",
    ),
    Foreign("a TensorFlow SavedModel", _folder_has("saved_model.pb"), "Convert it with tf2onnx, or use TF Serving."),
    Foreign("a TensorFlow Lite model", _starts(b"TFL3", at=4), "Take the model that it was converted from."),
    Foreign(
        "a TensorFlow checkpoint",
        lambda probe: probe.is_dir and (probe.path / "checkpoint").is_file() and any(probe.path.glob("*.index")),
        "Export it to a SavedModel and convert that with tf2onnx.",
    ),
    Foreign(
        "a Core ML package",
        lambda probe: probe.is_dir and (probe.path / "Manifest.json").is_file() and (probe.path / "Data").is_dir(),
        "Take the PyTorch model that it was converted from.",
    ),
    Foreign(
        "a Torch7 file (Lua)",
        _starts(
            *(b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1", b"\x03\0\0\0\x01\0\0\0", b"4\n1\n3\nV 1\n", b"3\n1\n"),
        ),
        "Convert it where it can be read (torchfile, or Lua Torch), and save the weights with torch.save.",
    ),
    Foreign("a TensorRT engine", _starts(b"ptrt", b"ftrt"), "Take the PyTorch or ONNX model that it was built from."),
    Foreign("an ExecuTorch program", _starts(b"ET1", at=4), "Take the torch.export program that it was made from."),
    Foreign("a LightGBM model", _starts(b"tree\nversion="), "Serve it with MLflow or MLServer."),
    Foreign("a single numpy array", _starts(b"\x93NUMPY"), "Save the weights by name: numpy.savez(path, **weights)."),
    Foreign(
        "a 7z or Rar archive",
        _starts(b"7z\xbc\xaf\x27\x1c", b"Rar!"),
        "Unpack it and register what is inside, or make a tar of it.",
    ),
)


def detect(probe: Probe) -> bool:
    return _kind(probe) is not None


def open(path: Path, read: str) -> Checkpoint:
    kind = _kind(Probe(path))
    assert kind is not None, "open is called after detect"
    raise kind.error(f"{path.name} is {kind.name}", hint=kind.way_out or None)


def _kind(probe: Probe) -> Foreign | None:
    return next((kind for kind in KINDS if kind.test(probe)), None)


def _looks_like_html(head: bytes) -> bool:
    return head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))
