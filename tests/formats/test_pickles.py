"""Pickles that torch.save did not write: read as Python would read them, nothing of them run, tensors mapped."""

import io
import pickle
import pickletools
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dill
import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetClassifier
from torch import nn

from score.errors import LoadError, MalformedFile, NoWeights, SeveralCheckpoints, TruncatedFile, UntrustedCode
from score.formats import registry
from score.formats._pickle import nested
from score.inference import pipeline
from score.settings import Settings
from score.weights import hashing, select
from score.weights.locate import find_checkpoint
from score.weights.opened import open_weights
from tests.makers import Net, net


def with_joblib(compress: Any) -> Callable[[Any], bytes]:
    def dump(value: Any) -> bytes:
        buffer = io.BytesIO()
        joblib.dump(value, buffer, compress=compress)
        return buffer.getvalue()

    return dump


DUMPS: dict[str, Callable[[Any], bytes]] = {
    **{f"protocol {protocol}": (lambda value, p=protocol: pickle.dumps(value, p)) for protocol in range(6)},  # type: ignore[misc]
    "cloudpickle": cloudpickle.dumps,
    "dill": dill.dumps,
    "joblib": with_joblib(0),
    "joblib, zlib": with_joblib(3),
    "joblib, gzip": with_joblib(("gzip", 3)),
    "joblib, bz2": with_joblib(("bz2", 3)),
    "joblib, xz": with_joblib(("xz", 3)),
}


@pytest.fixture(params=DUMPS)
def dump(request: pytest.FixtureRequest) -> Callable[[Any], bytes]:
    return DUMPS[request.param]


def of_many_kinds() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    base = torch.randn(40, 50)
    return {
        "float32": base,
        "transposed": base.t(),
        "a part": base[3:7, ::2],
        "half": torch.randn(3, 4).half(),
        "bfloat16": torch.randn(3, 4).bfloat16(),
        "float64": torch.randn(70, 90, dtype=torch.float64),
        "int64": torch.arange(9),
        "bool": torch.tensor([True, False]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "nothing": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
        "parameter": nn.Parameter(torch.randn(2, 2)),
    }


def the_same(path: Path, state: dict[str, Any], **settings: Any) -> None:
    weights = open_weights(Settings.load(path, **settings)).weights
    assert weights is not None
    assert set(weights.tensors) == set(state)
    for name, value in state.items():
        tensor = value.detach() if isinstance(value, torch.Tensor) else torch.from_numpy(value)
        ref = weights.tensors[name]
        assert (ref.dtype, ref.shape) == (tensor.dtype, tuple(tensor.shape))
        assert torch.equal(ref.load(), tensor)


def test_a_state_dict_of_every_kind_of_tensor(dump: Callable[[Any], bytes], tmp_path: Path) -> None:
    state = of_many_kinds()
    (tmp_path / "model.pkl").write_bytes(dump(OrderedDict(state)))
    the_same(tmp_path, state)
    the_same(tmp_path, state, read="read")


def test_a_training_checkpoint(dump: Callable[[Any], bytes], tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loss": torch.ones(()),
    }
    (tmp_path / "model.pkl").write_bytes(dump(content))
    the_same(tmp_path, model.state_dict())
    assert open_weights(Settings.load(tmp_path)).checkpoint.metadata["epoch"] == 3


def test_a_dict_with_arrays(dump: Callable[[Any], bytes], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    state = {
        "w1": rng.normal(size=(40, 60)).astype(np.float32),
        "b1": np.asfortranarray(rng.normal(size=(70, 80))),
        "small": np.arange(4),
        "big endian": np.arange(5, dtype=">f4"),
        "none": np.empty((0, 3), np.float32),
    }
    (tmp_path / "model.pkl").write_bytes(dump(state))
    the_same(tmp_path, {name: value.astype(value.dtype.newbyteorder("=")) for name, value in state.items()})


def test_a_module_of_torchs_own_layers_is_served(dump: Callable[[Any], bytes], tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 2)).eval()
    (tmp_path / "model.pkl").write_bytes(dump(model))
    rows = torch.randn(3, 4)
    answer = pipeline.load_model(Settings.load(tmp_path))(rows.numpy())
    assert torch.equal(torch.from_numpy(answer), model(rows))


def test_a_module_of_a_class_of_ones_own_needs_trust(dump: Callable[[Any], bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    model = net()
    path.write_bytes(dump(model))
    with pytest.raises(UntrustedCode, match=r"tests\.makers\.Net"):
        pipeline.load_model(Settings.load(tmp_path))
    the_same(tmp_path, model.state_dict())
    if registry.detect(path) == "pickle":
        rows = torch.randn(2, 1, 8, 8)
        answer = pipeline.load_model(Settings.load(tmp_path, trust_sha256=hashing.file_sha256(path)))(rows.numpy())
        assert torch.equal(torch.from_numpy(answer), model(rows))


@pytest.mark.parametrize("library", [cloudpickle, dill])
def test_a_class_that_the_pickle_brings_along_is_named_and_not_made(library: Any, tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__", "nn": nn}
    source = "class Mine(nn.Module):\n def __init__(self):\n  super().__init__()\n  self.fc = nn.Linear(3, 2)\n"
    exec(compile(source, "<test>", "exec"), space)
    model = space["Mine"]()
    how = {"recurse": True} if library is dill else {}
    (tmp_path / "model.pkl").write_bytes(library.dumps(model, **how))
    opened = open_weights(Settings.load(tmp_path))
    assert opened.weights is not None
    assert opened.weights.class_path == "__main__.Mine"
    the_same(tmp_path, model.state_dict())


def test_a_net_of_skorchs(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model = NeuralNetClassifier(module, max_epochs=1, verbose=0).fit(
        np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    )
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    rows = torch.randn(5, 4)
    model.module_.eval()
    answer = pipeline.load_model(Settings.load(tmp_path))(rows.numpy())
    assert torch.equal(torch.from_numpy(answer), model.module_(rows))


def test_bytes_that_torch_save_wrote_are_read_where_they_are(tmp_path: Path) -> None:
    state = net().state_dict()
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=new)
        (tmp_path / "model.pkl").write_bytes(pickle.dumps({"name": "mine", "weights": buffer.getvalue()}))
        the_same(tmp_path, state)


def test_storages_are_mapped_and_the_file_never_changes(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(before := pickle.dumps({"w": torch.randn(300, 300)}))
    weights = open_weights(Settings.load(tmp_path, read="mmap")).weights
    assert weights is not None
    weights.tensors["w"].load().zero_()
    assert path.read_bytes() == before


class Runs:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize("depth", ["beside", "in the bytes"])
def test_nothing_runs_and_what_would_have_is_named(depth: str, tmp_path: Path) -> None:
    if depth == "beside":
        content = pickle.dumps({"w": torch.randn(40, 40), "x": Runs()})
    else:
        buffer = io.BytesIO()
        torch.save({"w": torch.randn(4, 4), "x": Runs()}, buffer)
        content = pickle.dumps({"inner": buffer.getvalue(), "w": torch.randn(2, 2)})
    (tmp_path / "model.pkl").write_bytes(content)
    opened = registry.open_checkpoint(tmp_path / "model.pkl")
    assert "builtins.exec" in opened.unsafe_globals


def _nested(depth: int) -> bytes:
    """A pickle in which `_load_from_bytes` is called with a file of torch.save's that calls it again, and so on."""
    content = pickle.dumps(torch.ones(2).untyped_storage())
    for _ in range(depth):
        buffer = io.BytesIO()
        torch.save({"x": Again(content)}, buffer, _use_new_zipfile_serialization=False)
        content = buffer.getvalue()
    return pickle.dumps({"x": Again(content)})


class Again:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        return (torch.storage._load_from_bytes, (self.content,))


def test_bytes_in_bytes_in_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(_nested(3))
    with pytest.raises(MalformedFile, match=r"another tensor's bytes|not what torch\.save wrote"):
        registry.open_checkpoint(tmp_path / "model.pkl")
    with pytest.raises(MalformedFile):
        nested.load_from_bytes(b"nothing of the kind")


def test_other_libraries_models_are_named_and_data_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    fitted = LogisticRegression().fit(np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2)
    for value, says in (
        (fitted, "a scikit-learn model"),
        (make_pipeline(fitted), "a scikit-learn model"),
        ({"coefficients": [1.0, 2.0]}, "plain Python values"),
        ([1, 2, 3], "plain Python values"),
        (np.float32(1), "numpy values"),
    ):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(NoWeights, match=says) as caught:
            registry.open_checkpoint(path)
        assert caught.value.hint
    path.write_bytes(with_joblib(0)(fitted))
    with pytest.raises(NoWeights, match="a scikit-learn model"):
        registry.open_checkpoint(path)
    path.write_bytes(pickle.dumps({"scaler": fitted, "state": net().state_dict()}))
    the_same(path, net().state_dict())


def test_beside_a_checkpoint_a_pickle_is_data(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "model.pt")
    (tmp_path / "vectors.pkl").write_bytes(pickle.dumps({"cat": np.ones(3), "dog": np.zeros(3)}))
    (tmp_path / "vocab").write_text("cat\ndog\nbird\n")  # reads as a pickle of protocol 0 does
    assert find_checkpoint(Settings.load(tmp_path)).path.name == "model.pt"
    (tmp_path / "model.pt").unlink()
    assert find_checkpoint(Settings.load(tmp_path)).path.name == "vectors.pkl"
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"cat": np.ones(3)}))
    with pytest.raises(SeveralCheckpoints):
        find_checkpoint(Settings.load(tmp_path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_one_cut_short_is_refused(dump: Callable[[Any], bytes], share: float, tmp_path: Path) -> None:
    content = dump(of_many_kinds())
    (tmp_path / "model.pkl").write_bytes(content[: int(len(content) * share)])
    with pytest.raises((TruncatedFile, MalformedFile, NoWeights), match=r"model\.pkl"):
        registry.open_checkpoint(tmp_path / "model.pkl")


DTYPES = st.sampled_from(["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "?", ">f4", ">i8"])


@given(
    arrays.arrays(DTYPES, arrays.array_shapes(min_dims=1, max_side=40)),
    st.sampled_from(sorted(DUMPS)),
    st.booleans(),
)
def test_arrays_are_what_python_reads(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, how: str, turned: bool
) -> None:
    given = array.T if turned else array
    path = tmp_path_factory.mktemp("any") / "model.pkl"
    path.write_bytes(DUMPS[how]({"w": given, "v": given}))
    weights = select.weights_of(registry.open_checkpoint(path))
    assert weights is not None
    for name in ("w", "v"):
        found = weights.tensors[name].load().numpy()
        assert np.array_equal(found, given, equal_nan=given.dtype.kind == "f")


@given(st.data())
def test_a_changed_byte_is_an_error_or_an_answer_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(_PICKLED)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("any") / "model.pkl"
    path.write_bytes(content)
    try:
        weights = select.weights_of(registry.open_checkpoint(path))
        for ref in weights.tensors.values() if weights else ():
            ref.load()
    except LoadError as error:
        assert "model.pkl" in str(error)


_PICKLED = pickle.dumps(Net().state_dict())


def test_the_pickles_of_these_tests_are_pickles() -> None:
    assert any(opcode.name == "BINBYTES" for opcode, *_ in pickletools.genops(_PICKLED))
    assert zlib.crc32(_PICKLED)
