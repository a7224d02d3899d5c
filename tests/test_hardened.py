"""Small inputs that stopped the server, hung a command or filled the memory: each is refused, and in no time."""

import io
import json
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from score.cli.inspection import inspect
from score.codecs import json_dialects, npy, npz, oip_v2
from score.codecs.base import Body
from score.errors import ArchitectureBroken, InvalidSetting, LoadError, MalformedFile, RequestError
from score.formats.registry import open_checkpoint
from score.inference import pipeline
from score.settings import Settings
from tests import makers
from tests.real_server import environment, running


def _npz(kind: int, claimed: int | None = None) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", kind) as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + bytes(1 << 20))
    content = written.getvalue()
    return (
        content
        if claimed is None
        else content.replace((6 + (1 << 20)).to_bytes(4, "little"), claimed.to_bytes(4, "little"))
    )


def _npy(shape: tuple[int, ...]) -> bytes:
    header = str({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4)


BODIES: dict[str, tuple[Any, bytes, str]] = {
    "an npz in bzip2": (npz, _npz(zipfile.ZIP_BZIP2, 2000), "application/x-npz"),
    "an npz in lzma": (npz, _npz(zipfile.ZIP_LZMA, 2000), "application/x-npz"),
    "an npz that is more than it says": (npz, _npz(zipfile.ZIP_DEFLATED, 2000), "application/x-npz"),
    "one long text among short ones": (
        json_dialects, orjson.dumps({"data": ["x" * 1_000_000, *["y"] * 1500]}), "application/json",
    ),
    "a long text in rows": (
        json_dialects, orjson.dumps({"data": [["x" * 1_000_000, "y"], *[["a", "b"]] * 1500]}), "application/json",
    ),
    "300,000 sizes": (
        oip_v2,
        orjson.dumps({"inputs": [{"name": "x", "shape": [3] * 300_000, "datatype": "FP32", "data": [1.0]}]}),
        "application/json",
    ),
    "70 sizes": (
        oip_v2, orjson.dumps({"inputs": [{"name": "x", "shape": [1] * 70, "datatype": "FP32", "data": [1.0]}]}), "",
    ),
    "an npy of 70 dimensions": (npy, _npy((1,) * 70), "application/x-npy"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_refused_before_it_is_large(name: str) -> None:
    codec, content, kind = BODIES[name]
    begun = time.process_time()
    with pytest.raises(RequestError):
        codec.decode(Body(content, kind))
    assert time.process_time() - begun < 5


def test_texts_that_are_as_long_as_each_other_are_taken() -> None:
    found = json_dialects.decode(Body(orjson.dumps({"data": ["word " * 200] * 50}))).arrays
    assert isinstance(found, np.ndarray)
    assert found.shape == (50,)


def _nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b"\x80\x02" + opening * depth + b"N" + closing * depth + b"."


def _shared(depth: int, make: str) -> bytes:
    """A value in which each level holds the one below it twice: small to write, 2 ** depth to walk."""
    value: Any = {"weight": 1.0}
    for _ in range(depth):
        value = {"dict": {"a": value, "b": value}, "list": [value, value], "tuple": (value, value)}[make]
    return pickle.dumps({"state_dict": {}, "config": value, "hyper_parameters": value}, 2)


PICKLES = {
    "a deep tuple as a key": b"\x80\x02}" + b"N" + b"\x85" * 500_000 + b"K\x01s.",
    "a shared tuple as a key": b"\x80\x02}" + b"N" + b"2\x86" * 60 + b"K\x01s.",
    "a deep tuple in a set": b"\x80\x04\x8f(" + b"N" + b"\x85" * 500_000 + b"\x90.",
    "shared dicts": _shared(60, "dict"),
    "shared lists": _shared(60, "list"),
    "shared tuples": _shared(60, "tuple"),
    "a long integer": b"\x80\x02}(X\x01\x00\x00\x00e\x8b" + (90_000).to_bytes(4, "little") + b"\x7f" * 90_000 + b"u.",
    "many digits": b"(dS'x'\nI" + b"9" * 10_000 + b"\ns.",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "a deep tuple in a set" else ()) for name in PICKLES],
)
def test_a_small_pickle_takes_little(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", PICKLES[name])
        archive.writestr("model/version", "3")
    begun = time.process_time()
    orjson.dumps(inspect(tmp_path, Settings.load(tmp_path)), default=str)
    with pytest.raises(LoadError):
        pipeline.load_model(Settings.load(tmp_path))
    assert time.process_time() - begun < 20


def test_two_records_that_torch_takes_for_one(tmp_path: Path) -> None:
    state = makers.torch_zip(tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt", "a") as archive:
        archive.writestr("model/DATA.PKL", pickle.dumps(dict.fromkeys(state, 0)))
    with pytest.raises(MalformedFile, match="two records"):
        open_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["torch", "numpy", "orjson", "yaml", "score", "models"])
def test_nothing_is_imported_from_where_a_command_runs(name: str, tmp_path: Path) -> None:
    makers.torch_zip(tmp_path)
    (tmp_path / f"{name}.py").write_text("open('ran', 'w').write('x')\nraise SystemExit('imported')\n")
    command = [str(Path(sys.executable).parent / "score"), "check", "."]
    subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True)
    assert not (tmp_path / "ran").exists()


def test_nothing_is_imported_from_where_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "untrusted"
    folder.mkdir()
    state = {"linear.weight": torch.rand(2, 10), "linear.bias": torch.rand(2)}
    torch.save(state, folder / "model.pt")
    for name in ("torch", "numpy", "orjson", "yaml", "score", "gunicorn.conf", "flask", "greenlet"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write({name!r})\n")
    monkeypatch.chdir(folder)
    with running(Path(), tmp_path, SCORE_CONFINE="off") as server:
        assert server.post({"data": [[0.0] * 10]}).status == 200
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "line",
    ["max_body_mb = 5000", "max_queue = 1", "log_requests = false", 'confine = "off"', "stuck_after_ms = 0",
     "collect_data = true", 'architecture = "timm:resnet18"\narchitecture_kwargs = { checkpoint_path = "x.pth" }'],
)  # fmt: skip
def test_score_toml_does_not_set_what_protects_the_server(line: str, tmp_path: Path) -> None:
    (tmp_path / "score.toml").write_text(line + "\n")
    with pytest.raises(InvalidSetting, match=r"score.toml may not set"):
        Settings.load(tmp_path)


@pytest.mark.parametrize(
    "content", ["a." * 20_000 + "a = 1", "[" * 5000, "x = " + "[" * 5000, "\0", "labels = 1" + "0" * 5000]
)
def test_a_broken_score_toml_is_an_error_of_ours(content: str, tmp_path: Path) -> None:
    (tmp_path / "score.toml").write_text(content)
    with pytest.raises(InvalidSetting):
        Settings.load(tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "score.toml").write_text('labels = ["secret"]\n')
    (folder / "score.toml").symlink_to("../score.toml")
    assert Settings.load(folder).labels == []
    (tmp_path / "MLmodel").write_text("flavors:\n  pytorch:\n    model_data: data\n")
    (folder / "MLmodel").symlink_to("../MLmodel")
    with pytest.raises(MalformedFile, match="not in the folder"):
        open_checkpoint(folder, name="mlflow")
    (folder / "MLmodel").unlink()
    makers.hf_dir(folder)
    (tmp_path / "vocab.txt").write_text("secret\n")
    (folder / "model" / "vocab.txt").symlink_to("../../vocab.txt")
    with pytest.raises(MalformedFile, match=r"vocab.txt"):
        open_checkpoint(folder / "model")


def test_a_configuration_names_no_kernels_to_fetch(tmp_path: Path) -> None:
    makers.hf_dir(tmp_path)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for more in ({"attn_implementation": "someone/kernels"}, {"text_config": {"_attn_implementation": "x/y@main"}}):
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | more))
        with pytest.raises(ArchitectureBroken, match="fetched"):
            open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    "text", ["a: &a [x, x]\nb: &b [*a, *a]\nflavors: {pytorch: *b}", "[" * 3000, "? " * 3000, "a: !!python/x y"]
)
def test_a_broken_mlmodel_is_an_error_of_ours(text: str, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(LoadError):
        open_checkpoint(tmp_path, name="mlflow")


@pytest.mark.parametrize("device", ["cuda:999999999999", "cuda:99", "gpu"])
def test_a_device_that_is_none_is_an_error_of_ours(device: str, tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.rand(2, 10), "linear.bias": torch.rand(2)}, tmp_path / "model.pt")
    with pytest.raises(LoadError):
        pipeline.load_model(Settings.load(tmp_path, device=device))


def _safetensors(shape: list[int]) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def _bzip2() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}." + bytes(1 << 22))
    return written.getvalue()


def _expanded() -> bytes:
    written = io.BytesIO()
    torch.save({"w": torch.zeros(1).expand(40_000_000_000)}, written)
    return written.getvalue()


def _many_layers() -> bytes:
    module, written = torch.nn.LSTM(2, 2), io.BytesIO()
    module.num_layers = 1_000_000_000
    torch.save(module, written)
    return written.getvalue()


def _zipped(content: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("model/data.pkl", content)
        archive.writestr("model/version", "3")
    return written.getvalue()


def _over_and_over(instruction: bytes, shared: bytes, times: int = 20_000) -> bytes:
    """A value that is memoised once, and that each of many instructions does something with."""
    named = (b"X\x05\x00\x00\x00%05d" % at for at in range(times))
    return _zipped(b"\x80\x02" + shared + b"q\x000}(" + b"".join(name + instruction for name in named) + b"u.")


_ONES = b"](" + b"K\x01" * 20_000 + b"e"
_KEYS = b"}(" + b"".join(b"X\x05\x00\x00\x00%05dK\x01" % at for at in range(20_000)) + b"u"


def _modules_in_modules(parameters: int) -> bytes:
    """Modules that hold the next one twice, so that it is there under 2 ** 38 names."""
    module, written = torch.nn.Module(), io.BytesIO()
    for at in range(parameters):
        module.register_parameter(f"p{at}", torch.nn.Parameter(torch.ones(2)))
    for _ in range(38):
        above = torch.nn.Module()
        above.one = above.other = module
        module = above
    torch.save(module, written)
    return written.getvalue()


def _state_with(name: str) -> bytes:
    written = io.BytesIO()
    torch.save({name: torch.zeros(2, 2)}, written)
    return written.getvalue()


FILES = {
    "a parameter that holds itself": (
        lambda: _zipped(b"\x80\x02}(X\x01\x00\x00\x00wcx.y\nParameter\n)\x81q\x00h\x00\x85bu."),
        "no_weights",
    ),
    "parameters of parameters": (
        lambda: _zipped(b"\x80\x02}(X\x01\x00\x00\x00wN" + b"\x85q\x000cx\nParameter\n)\x81h\x00b" * 30_000 + b"u."),
        "no_weights",
    ),
    "a list that is copied": (lambda: _over_and_over(b"c__builtin__\nlist\nh\x00\x85R", _ONES), "malformed_file"),
    "a text that is encoded": (
        lambda: _over_and_over(b"c_codecs\nencode\nh\x00\x85R", b"X\x40\x42\x0f\x00" + b"x" * 1_000_000),
        "malformed_file",
    ),
    "arguments that are shared": (
        lambda: _over_and_over(b"cargparse\nNamespace\nh\x00R", b"(" + b"K\x01" * 20_000 + b"t"),
        "no_weights",
    ),
    "a state that is shared": (lambda: _over_and_over(b"cargparse\nNamespace\n)\x81h\x00b", _KEYS), "no_weights"),
    "modules in modules": (lambda: _modules_in_modules(1), "malformed_file"),
    "empty modules in modules": (lambda: _modules_in_modules(0), "malformed_file"),
    "a key of dots": (lambda: _zipped(pickle.dumps({"a" + "." * 500_000: 1, "state_dict": {}}, 2)), "no_weights"),
    "a tensor's name of dots": (lambda: _state_with("module." * 50_000 + "w"), "malformed_file"),
    "30,000 dimensions": (lambda: _safetensors([3] * 30_000), "malformed_file"),
    "records in bzip2": (_bzip2, "malformed_file"),
    "an expanded tensor": (_expanded, ""),
    "an LSTM of a billion layers": (_many_layers, ""),
}


@pytest.mark.parametrize("content", [b'{"a":', b"[]", b"[" * 100_000])
def test_a_broken_tokenizer_is_an_error_of_ours(content: bytes, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    transformers = pytest.importorskip("transformers")
    transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, **sizes)).save_pretrained(
        tmp_path
    )
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(MalformedFile, match="tokenizer"):
        _ = pipeline.load_model(Settings.load(tmp_path)).task


def test_a_folder_of_links_that_loop_is_walked_once(tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.rand(2, 10), "linear.bias": torch.rand(2)}, tmp_path / "model.pt")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    assert pipeline.load_model(Settings.load(tmp_path)).report.architecture == "SimpleModel"


def test_one_item_of_a_distributed_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 names of the same bytes are as many tensors, and one archive to open."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import MetadataIndex

    from score.formats import distcp

    dcp.save({"model": {"w": torch.ones(4, 4)}}, checkpoint_id=str(tmp_path), no_dist=True)
    described = pickle.loads((tmp_path / ".metadata").read_bytes())
    entry = described.state_dict_metadata["model.w"]
    ((index, place),) = described.storage_data.items()
    for at in range(20_000):
        described.state_dict_metadata[f"w{at}"] = entry
        described.storage_data[MetadataIndex(f"w{at}", index.offset)] = place
    (tmp_path / ".metadata").write_bytes(pickle.dumps(described, 2))
    opened = 0
    read_archive = distcp.read_archive

    def counted(*given: Any) -> Any:
        nonlocal opened
        opened += 1
        return read_archive(*given)

    monkeypatch.setattr(distcp, "read_archive", counted)
    tree = open_checkpoint(tmp_path).tree
    assert opened == 1
    assert torch.equal(tree["w19999"].load(), torch.ones(4, 4))


def test_pieces_of_a_distributed_tensor_are_not_the_same_bytes(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    dcp.save({"w": torch.ones(4, 4)}, checkpoint_id=str(tmp_path), no_dist=True)
    described = pickle.loads((tmp_path / ".metadata").read_bytes())
    ((_, place),) = described.storage_data.items()
    entry = described.state_dict_metadata["w"]
    entry.size = torch.Size([40_000, 4])
    entry.chunks = [ChunkStorageMetadata(torch.Size([at, 0]), torch.Size([4, 4])) for at in range(0, 40_000, 4)]
    described.storage_data = {MetadataIndex("w", chunk.offsets): place for chunk in entry.chunks}
    (tmp_path / ".metadata").write_bytes(pickle.dumps(described, 2))
    with pytest.raises(MalformedFile, match="the same bytes"):
        open_checkpoint(tmp_path)


# All three commands in one process, since most of a command's time goes into importing torch.
COMMANDS = """
import sys
from score.cli.app import app
path = sys.argv[1]
for arguments in (["check", path], ["inspect", path], ["convert", path, path + ".safetensors"]):
    try:
        app(arguments)
    except SystemExit as end:
        print(f"\\0{arguments[0]} {end.code}", end="\\0", file=sys.stderr, flush=True)
"""


# Some take ten seconds, for what a pickle may cost; of those alike one is fast enough.
_LONG = ("modules in modules", "empty modules in modules", "arguments that are shared", "parameters of parameters")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in _LONG else ()) for name in FILES]
)
def test_a_small_file_ends_every_command_soon(name: str, tmp_path: Path) -> None:
    make, code = FILES[name]
    (tmp_path / "model.pt").write_bytes(make())
    command = [sys.executable, "-c", COMMANDS, str(tmp_path / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
    assert "Traceback" not in done.stderr
    *said, rest = done.stderr.split("\0")
    assert not rest
    assert [end.split()[0] for end in said[1::2]] == ["check", "inspect", "convert"]
    for shown, end in zip(said[::2], said[1::2], strict=True):
        assert end.split()[1] in ("0", "3")
        assert code in shown
