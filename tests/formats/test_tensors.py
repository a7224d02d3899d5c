"""Tensors that are more than numbers in a row, and values of other times: against torch and numpy on the same file."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score.errors import LoadError, MalformedFile
from score.formats.registry import open_checkpoint
from score.weights import select

SAVERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda value, path: torch.save(value, path),
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
}


def ours(path: Path) -> dict[str, torch.Tensor]:
    return {name: ref.load() for name, ref in select.choose(open_checkpoint(path)).tensors.items()}


@pytest.mark.parametrize("saver", SAVERS)
def test_quantised(tmp_path: Path, saver: str) -> None:
    values = torch.randn(4, 3)
    made = {
        "per tensor": torch.quantize_per_tensor(values, 0.1, 10, torch.quint8),
        "signed": torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
        "wide": torch.quantize_per_tensor(values, 0.1, 0, torch.qint32),
        "per channel": torch.quantize_per_channel(values, torch.rand(4) + 0.1, torch.zeros(4), 0, torch.qint8),
        "view": torch.quantize_per_tensor(values, 0.1, 0, torch.qint8)[1:3],
    }
    SAVERS[saver](made, tmp_path / "model.pt")
    for name, tensor in ours(tmp_path / "model.pt").items():
        assert tensor.dtype == made[name].dtype
        assert tensor.qscheme() == made[name].qscheme()
        assert torch.equal(tensor.int_repr(), made[name].int_repr())
        assert torch.equal(tensor.dequantize(), made[name].dequantize())


@pytest.mark.parametrize("saver", SAVERS)
def test_sparse(tmp_path: Path, saver: str) -> None:
    dense = torch.tensor([[0.0, 1.5, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 3.0], [0, 0, 0, 0]])
    made = {
        "coo": dense.to_sparse(),
        "uncoalesced": torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 2)),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((2, 2)),
    }
    SAVERS[saver](made, tmp_path / "model.pt")
    for name, tensor in ours(tmp_path / "model.pt").items():
        assert tensor.layout == made[name].layout
        assert torch.equal(tensor.to_dense(), made[name].to_dense())
        if tensor.layout == torch.sparse_coo:
            assert tensor.is_coalesced() == made[name].is_coalesced()


def test_a_sparse_tensor_whose_indices_lie_is_refused(tmp_path: Path) -> None:
    good = torch.sparse_coo_tensor([[0, 1], [1, 0]], [1.0, 2.0], (2, 2)).coalesce()
    torch.save({"w": good}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as old, zipfile.ZipFile(tmp_path / "bad.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if len(content) == 32:  # the indices: 2 x 2 int64
                content = np.array([[0, 1], [1, 1 << 40]]).tobytes()
            new.writestr(name, content)
    with pytest.raises(LoadError, match="do not fit together"):
        ours(tmp_path / "bad.pt")


class Marked(torch.Tensor):
    """A tensor subclass of a project."""


@pytest.mark.parametrize("saver", SAVERS)
def test_subclasses_are_the_tensors_that_they_are(tmp_path: Path, saver: str) -> None:
    values = torch.arange(3.0)
    marked = values.as_subclass(Marked)
    marked.note = "x"  # type: ignore[attr-defined]
    noted = nn.Parameter(values.clone())
    noted.note = "x"  # type: ignore[attr-defined]
    made = {"subclass": marked, "parameter": nn.Parameter(values), "with state": noted, "buffer": nn.Buffer(values)}
    SAVERS[saver](made, tmp_path / "model.pt")
    found = ours(tmp_path / "model.pt")
    assert set(found) == set(made)
    for tensor in found.values():
        assert torch.equal(tensor, values)


def test_conjugate_and_negative_views(tmp_path: Path) -> None:
    values = torch.tensor([1 + 2j, 3 - 4j])
    made = {"conjugate": values.conj(), "plain": values, "negative": values.clone().conj().imag}
    torch.save(made, tmp_path / "model.pt")
    wanted = torch.load(tmp_path / "model.pt", weights_only=True)
    for name, tensor in ours(tmp_path / "model.pt").items():
        assert torch.equal(tensor.resolve_conj().resolve_neg(), wanted[name].resolve_conj().resolve_neg()), name


def test_a_meta_tensor_has_no_values_and_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "m": torch.empty(3, device="meta")}, tmp_path / "model.pt")
    found = select.choose(open_checkpoint(tmp_path / "model.pt")).tensors
    assert found["m"].shape == torch.load(tmp_path / "model.pt")["m"].shape
    with pytest.raises(MalformedFile, match="meta device"):  # nothing is made up for it
        found["m"].load()


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numpy_of_either_generation(tmp_path: Path, module: str, protocol: int) -> None:
    arrays = {"f": np.arange(6.0).reshape(2, 3), "i": np.arange(3), "fortran": np.asfortranarray(np.ones((2, 2))),
              "big": np.arange(3, dtype=">f4"), "half": np.ones(2, np.float16)}  # fmt: skip
    value = {"state": arrays, "best": np.float32(0.5), "name": np.str_("x")}
    data = pickle.dumps(value, protocol)
    for written in (b"numpy._core", b"numpy.core"):
        if protocol == 2:  # names are lines there; later they have lengths
            data = data.replace(written, module.encode())
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", data)
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.metadata["best"] == 0.5
    weights = select.choose(checkpoint)
    assert weights.path == "state"
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights.tensors[name].load().numpy(), array)


def test_a_file_of_python_2(tmp_path: Path) -> None:
    """Byte strings for names, and old module names, as Python 2 and torch 0.3 wrote them."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04Ntq\x01Q"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x02K\x02\x86K\x02K\x01\x86tR"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x02\x85"
        b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + np.array([1.5, -2.5], "<f4").tobytes() + b"tb"
    )  # fmt: skip
    body = b"\x80\x02}(U\x05statec__builtin__\ndict\n)R(U\x01w" + tensor + b"U\x01n" + array + b"u"
    body += b"U\x04argscargparse\nNamespace\n)\x81}U\x02lrG?\xb9\x99\x99\x99\x99\x99\x9asbu."
    magic, protocol = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}U\rlittle_endian\x88s."
    keys, numbers = b"\x80\x02]U\x010a.", np.arange(4, dtype="<f4").tobytes()
    content = magic + protocol + system + body + keys + (4).to_bytes(8, "little") + numbers
    (tmp_path / "model.pth").write_bytes(content)
    checkpoint = open_checkpoint(tmp_path / "model.pth")
    found = ours(tmp_path / "model.pth")
    assert found["w"].tolist() == [[0, 1], [2, 3]]
    assert found["n"].tolist() == [1.5, -2.5]
    assert checkpoint.metadata["args"] == {"lr": 0.1}


def test_legacy_storages_are_mapped_where_they_lie(tmp_path: Path) -> None:
    SAVERS["legacy"]({"w": torch.arange(1000.0), "x": torch.ones(3, dtype=torch.int8)}, tmp_path / "model.pt")
    weights = select.choose(open_checkpoint(tmp_path / "model.pt", "mmap"))
    address = weights.tensors["w"].load().data_ptr()
    maps = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("model.pt")]
    assert any(int(low, 16) <= address < int(high, 16) for low, high in (span.split("-") for span in maps))


@pytest.mark.parametrize("module", [
    nn.Linear(33, 17), nn.Conv2d(3, 8, 3), nn.Conv1d(4, 6, 5), nn.LSTM(7, 9), nn.GRU(5, 6), nn.LayerNorm(33),
    nn.BatchNorm2d(5), nn.Embedding(11, 13), nn.MultiheadAttention(16, 4), nn.ConvTranspose2d(3, 4, 3), nn.PReLU(5),
    nn.GroupNorm(2, 6), nn.Bilinear(3, 4, 5), nn.EmbeddingBag(11, 13),
])  # fmt: skip
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_weights_that_are_not_aligned_compute_the_same(module: nn.Module, shift: int) -> None:
    """torch-legacy puts storages at any byte; the mapped weights start there."""
    torch.manual_seed(4)
    inputs: dict[str, tuple[torch.Tensor, ...]] = {
        "Linear": (torch.rand(5, 33),), "Conv2d": (torch.rand(2, 3, 9, 9),), "Conv1d": (torch.rand(2, 4, 20),),
        "LSTM": (torch.rand(6, 2, 7),), "GRU": (torch.rand(6, 2, 5),), "LayerNorm": (torch.rand(4, 33),),
        "BatchNorm2d": (torch.rand(2, 5, 7, 7),), "Embedding": (torch.arange(11),),
        "MultiheadAttention": (torch.rand(5, 2, 16),) * 3, "ConvTranspose2d": (torch.rand(2, 3, 6, 6),),
        "PReLU": (torch.randn(3, 5, 4),), "GroupNorm": (torch.rand(2, 6, 5),),
        "Bilinear": (torch.rand(4, 3), torch.rand(4, 4)), "EmbeddingBag": (torch.arange(10).view(2, 5),),
    }  # fmt: skip
    given = inputs[type(module).__name__]
    module.eval()
    with torch.inference_mode():
        wanted = module(*given)
        moved = {name: _shifted(value, shift) for name, value in module.state_dict().items()}
        module.load_state_dict(moved, assign=True)
        torch.testing.assert_close(module(*given), wanted)


def _shifted(value: torch.Tensor, shift: int) -> torch.Tensor:
    raw = bytearray(value.numel() * value.element_size() + shift)
    moved = torch.frombuffer(raw, dtype=value.dtype, count=value.numel(), offset=shift).view(value.shape)
    return moved.copy_(value)
