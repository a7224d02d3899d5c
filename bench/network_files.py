"""What `bench/network_peers.py` hands to each server: the same weights in the form that it reads, and the bodies that
it is asked with."""

import base64
import importlib
import io
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contenders import CACHE, PEERS, ROOT
from networks import AS_NPY, Model
from serve import write_script
from texts import write_texts

CLASSES = CACHE / "classes"
PATHS = f"{CLASSES}:{ROOT}:{PEERS}"  # where a pickle finds the class of its module, as it is installed with us
AS_JSON = {"Content-Type": "application/json"}
OPSET = 18


def prepare(name: str, model: Model, folder: Path) -> None:
    """The model as its framework saves it and as ONNX, and wrk's scripts with their bodies."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    CLASSES.mkdir(exist_ok=True)
    if not (CLASSES / "loadstone_models").exists():
        (CLASSES / "loadstone_models").symlink_to(ROOT / "models")
    kept = CACHE / "tuned" / name
    if model.of_texts:
        _texts(kept, folder)
        return
    module = _classifier(kept) if model.folder else _module(kept, model)
    torch.save(module, folder / "model.pt")
    rows = torch.rand(model.shape) if model.dtype == "float32" else torch.randint(1000, model.shape)
    _onnx(module, (rows,), {"data": {0: "rows"}}, folder)
    for kind, (body, headers) in _bodies(rows.numpy(), model.dtype).items():
        place = script(folder, kind).with_suffix("")
        place.write_bytes(body)
        write_script(script(folder, kind), place, headers)


def script(folder: Path, kind: str) -> Path:
    """wrk's, for a kind of body; the body is beside it, without `.lua`."""
    return folder.parent / f"{folder.name}.{kind}.lua"


def _module(kept: Path, model: Model) -> Any:
    import torch

    module = model.build().eval()
    held = torch.load(kept / "model.pt", weights_only=False)  # our own: `networks.make` wrote it
    module.load_state_dict(held.state_dict() if isinstance(held, torch.nn.Module) else held)
    return module


def _classifier(kept: Path) -> Any:
    """A folder of transformers as a module that answers with an array."""
    from transformers import AutoModelForImageClassification

    return _logits(AutoModelForImageClassification.from_pretrained(kept, attn_implementation="sdpa"))


def _logits(classifier: Any) -> Any:
    sys.path.insert(0, str(PEERS))  # under the name that the peers unpickle it by
    return importlib.import_module("logits").Logits(classifier).eval()


def _texts(kept: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(kept, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tuned*", "*.pt2", "*.onnx"))
    module = _logits(AutoModelForSequenceClassification.from_pretrained(kept, attn_implementation="eager"))
    tokens = torch.ones(1, 12, dtype=torch.int64)
    axes = {0: "rows", 1: "tokens"}
    _onnx(module, (tokens, tokens), {"input_ids": axes, "attention_mask": axes}, folder)
    write_texts(script(folder, "json"))
    write_texts(script(folder, "list"), lambda text: {"inputs": [text]})
    write_texts(
        script(folder, "bytes"),
        lambda text: {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]},
    )


def _onnx(module: Any, rows: tuple[Any, ...], axes: Mapping[str, dict[int, str]], folder: Path) -> None:
    import torch

    torch.onnx.export(
        module, rows, str(folder / "model.onnx"), dynamo=False, opset_version=OPSET, input_names=list(axes),
        output_names=["output"], dynamic_axes={**axes, "output": {0: "rows"}},
    )  # fmt: skip


def _bodies(rows: Any, dtype: str) -> dict[str, tuple[bytes, dict[str, str]]]:
    """One row as each server takes it, with the headers that say so."""
    import numpy as np

    out = io.BytesIO()
    np.save(out, rows)
    array = out.getvalue()
    datatype = {"float32": "FP32", "int64": "INT64"}[dtype]
    head = json.dumps(
        {
            "inputs": [
                {"name": "data", "shape": list(rows.shape), "datatype": datatype,
                 "parameters": {"binary_data_size": rows.nbytes}}
            ],
            "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
        }
    ).encode()  # fmt: skip
    return {
        "npy": (array, AS_NPY),
        "base64": (json.dumps({"data": base64.b64encode(array).decode()}).encode(), AS_JSON),
        "binary": (
            head + rows.tobytes(),
            {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))},
        ),
        "nested": (json.dumps({"inputs": rows.tolist()}).encode(), AS_JSON),
    }
