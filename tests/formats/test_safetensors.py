"""safetensors: as the reference library reads it, and every lie in a header refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from score.errors import LoadError, MalformedFile, TruncatedFile, VersionTooOld
from score.formats.registry import detect, open_checkpoint

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
          "float8_e4m3fn", "float8_e5m2", "complex64", "uint16", "uint32", "uint64"]  # fmt: skip


def test_every_dtype_and_shape_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES}
    tensors |= {"0-d": torch.tensor(1.5), "empty": torch.empty(0, 4), "unaligned": torch.ones(3, dtype=torch.uint8)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "who": "me"})
    checkpoint = open_checkpoint(path)
    assert checkpoint.metadata == {"format": "pt", "who": "me"}
    wanted = load_file(path)
    assert set(checkpoint.tree) == set(wanted)
    for name, tensor in wanted.items():
        loaded = checkpoint.tree[name].load()
        assert loaded.dtype == tensor.dtype
        assert loaded.shape == tensor.shape
        assert torch.equal(
            loaded.view(torch.uint8) if tensor.dim() else loaded, tensor.view(torch.uint8) if tensor.dim() else tensor
        )


def write(path: Path, header: Any, data: bytes = bytes(64), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int = 0, end: int = 16, shape: Any = (4,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


LIES: dict[str, tuple[dict[str, Any] | bytes, type[LoadError]]] = {
    "past the end": ({"a": entry(0, 4000, (1000,))}, TruncatedFile),
    "overlap": ({"a": entry(0, 16), "b": entry(8, 24)}, MalformedFile),
    "backwards": ({"a": entry(16, 0)}, MalformedFile),
    "negative": ({"a": entry(-16, 0)}, MalformedFile),
    "shape too large": ({"a": entry(shape=(5,))}, MalformedFile),
    "shape too small": ({"a": entry(shape=(3,))}, MalformedFile),
    "negative shape": ({"a": entry(shape=(-2, -2))}, MalformedFile),
    "huge shape": ({"a": entry(shape=(2**40, 2**40))}, MalformedFile),
    "no shape": ({"a": entry(shape=None)}, MalformedFile),
    "text for a shape": ({"a": entry(shape=["4"])}, MalformedFile),
    "unknown dtype": ({"a": entry(dtype="F3")}, VersionTooOld),
    "no offsets": ({"a": {"dtype": "F32", "shape": [4]}}, MalformedFile),
    "an entry that is a list": ({"a": [1, 2]}, MalformedFile),
    "not JSON": (b'{"a": ', MalformedFile),
    "a list": (b'{"a"}   ', MalformedFile),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_header_is_refused(tmp_path: Path, name: str) -> None:
    header, error = LIES[name]
    path = write(tmp_path / "model.safetensors", header)
    assert detect(path) == "safetensors"
    with pytest.raises(error):
        open_checkpoint(path)
    with pytest.raises(Exception), safe_open(path, "pt") as file:  # noqa: B017  # the library refuses it too
        file.keys()


@pytest.mark.parametrize("length", [100_000_000_000, 100_000_001, 5000])
def test_a_header_that_claims_to_be_huge(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "model.safetensors", {"a": entry()}, length=length)
    assert detect(path) == "safetensors"
    with pytest.raises((MalformedFile, TruncatedFile), match="header"):
        open_checkpoint(path)
